"""What attention keeps of a long row, and what a rounded output head costs: the numbers of docs/models.md, on the CPU.

    python studies/attention.py          both tables
    python studies/attention.py kept     bytes kept for the backward pass
    python studies/attention.py head     errors of log-probs

Kept bytes are those of a forward pass under bfloat16 autocast (hooks on saved tensors), of a tiny Qwen3 with random
weights. Blocks are computed by torch's own reference of the kernel, which keeps what the kernel keeps. The errors are
those of the embedded base on answers that it sampled. Products in TF32 are imitated: factors are rounded to 10 bits
behind the point, sums stay float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import flex_attention as torch_flex

from copd.compute import devices, flex
from copd.model.folders import model_folder
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_kinds import tiny_of_kind

KINDS = ("text", "image", "video")
LENGTHS = (500, 1000, 2000)
PROMPTS, ROWS = 32, 4


def row(policy: Policy, length: int) -> Rollouts:
    """One random response of this length, to one prompt."""
    allowed = (~policy.banned_V).nonzero()[:, 0]
    return Rollouts(
        problems=(Digits("text").problem(Split.TRAIN, 0),),
        tokens_NT=allowed[torch.randint(len(allowed), (1, length))],
        mask_NT=torch.ones(1, length, dtype=torch.bool),
        finished_N=torch.zeros(1, dtype=torch.bool),
        logp_NT=torch.zeros(1, length),
        prompt_of_N=torch.zeros(1, dtype=torch.long),
        temperature=1.0,
    )


def kept(policy: Policy, rollouts: Rollouts) -> int:
    """Bytes that the forward pass of the log-probs keeps for the backward pass, parameters left out."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logp = policy.logp(rollouts)
    assert logp.requires_grad
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    return sum(size for place, size in storages.items() if place not in own)


def kept_bytes() -> None:
    torch.manual_seed(0)
    policy = Policy(*tiny_of_kind("qwen3"), autocast=torch.bfloat16)
    torch_flex._validate_device = lambda *states: None  # it refuses gradients on a CPU
    flex.compiled = lambda: torch_flex.flex_attention
    print("| tokens of the response | windows | blocks |\n|---|---|---|")
    for length in LENGTHS:
        counts = []
        for ways in (devices.OTHER, devices.CARD):
            devices.WAYS["cpu"] = ways
            counts.append(kept(policy, row(policy, length)))
        print(f"| {length:,} | " + " | ".join(f"{count:,}" for count in counts) + " |", flush=True)
    del devices.WAYS["cpu"]


def to_tf32(values: Tensor) -> Tensor:
    return ((values.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def to_bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def rounded(policy: Policy, rounding: Callable[[Tensor], Tensor]) -> Policy:
    """The policy with an output head that rounds its factors."""

    class Rounded(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return F.linear(rounding(hidden), rounding(self.weight))

    twin = policy.clone()
    twin.model.get_output_embeddings().__class__ = Rounded
    return twin


def head_errors() -> None:
    policy = Policy.from_pretrained(model_folder("builtin:digits"))
    narrow = policy.clone(autocast=torch.bfloat16)
    print("| prompts | bfloat16 body, float32 head | head in TF32 | head in bfloat16, float32 sums |")
    print("|---|---|---|---|")
    for kind in KINDS:
        problems = [Digits(kind).problem(Split.TEST, i) for i in range(PROMPTS)]
        generator = torch.Generator().manual_seed(0)
        rollouts = policy.sample(problems, rollouts_per_prompt=ROWS, generator=generator)
        exact = policy.score(rollouts).logp_NT
        cells = []
        for other in (narrow, rounded(policy, to_tf32), rounded(policy, to_bfloat16)):
            error = (other.score(rollouts).logp_NT - exact)[rollouts.mask_NT].abs()
            cells.append(f"{float(error.mean()):.1e} ({float(error.max()):.1e})")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    tables = {"kept": kept_bytes, "head": head_errors}
    for name in sys.argv[1:] or tables:
        tables[name]()


if __name__ == "__main__":
    main()
