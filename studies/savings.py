"""What is held and sent, beside what it would be in the plainest way: counted on the tiny model, on the CPU.

    python studies/savings.py        the table "What each way saves" of docs/memory.md

Both numbers of a row are counted in one run. "Held" is every allocation of torch, the fullest moment.
"""

from __future__ import annotations

import gc
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copd.assemble.branches import lone_branch
from copd.branches.branch import Branch
from copd.branches.travel import to_bytes
from copd.compute import packing
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import GrpoObjective
from copd.model.policy import Policy
from copd.model.stored import StoredTensors, write_folder
from copd.recipe.reading import load_recipe
from copd.types import Rollouts

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from counted_bytes import most_added, most_merged, written

CHANGES = ("sampling.prompts_per_step=16", "sampling.rollouts_per_prompt=8")
Row = tuple[str, int, str, int]
"""What is counted, its bytes; the plainest way, and its bytes."""


def branch_of(name: str, *changes: str) -> Any:
    """A branch of the demo, alone in its process, within a context."""
    return lone_branch(load_recipe("demo-paper", [*CHANGES, *changes]), name, 0, None, print)


def weights(branch: Branch) -> Iterator[Row]:
    gc.collect()
    models = {id(item): item for item in gc.get_objects() if type(item) is type(branch.policy.model)}
    own = sum(p.nbytes for p in branch.policy.model.parameters())
    held = sum(p.nbytes for model in models.values() for p in model.parameters())
    yield "weights in the process of a branch", held, "the base beside the branch", 2 * own


def gradients(policy: Policy) -> Iterator[Row]:
    rollouts = written(policy, 2, 4, 30)
    native = GrpoObjective("native", rollouts, 1.0, torch.linspace(-1, 1, 8))
    parts = [native, replace(native, name="taught")]
    learner = Learner(policy, learning_rate=1e-4)
    learner.step(parts)
    added, apart = (most_added(partial(learner.step, parts, part_norms=norms)) for norms in (False, True))
    yield "a step of two parts", added, "with a copy of the first part's gradient, as in every fourth step", apart


def frozen_base(policy: Policy) -> Iterator[Row]:
    """A base whose weights were stored in bfloat16, as published ones are."""
    policy.autocast = torch.bfloat16
    model = policy.model
    for parameter in model.parameters():
        parameter.data = parameter.bfloat16().float()
    before = sum(p.nbytes for p in model.parameters())
    policy.with_adapter("a", LoraSettings(4, 8.0, ("q_proj",)), 0)
    held = sum(p.nbytes for name, p in model.named_parameters() if "lora" not in name)
    yield "the base of adapters under autocast", held, "in float32", before


def masks(policy: Policy) -> Iterator[Row]:
    policy.autocast = torch.bfloat16
    rollouts = written(policy, 1, 1, 2000)

    def seen_without_a_cast(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, *, seen: Any, **_: Any
    ) -> tuple[Tensor, None]:
        return seen.attend(query, key, value.to(query.dtype), scaling).to(value.dtype), None

    def passed() -> None:
        policy.logp(rollouts).sum().backward()

    one = most_added(passed)
    packing.AttentionInterface.register(packing.ATTENTION, seen_without_a_cast)
    each = most_added(passed)
    packing.AttentionInterface.register(packing.ATTENTION, packing.attend)
    yield "a training pass over a response of 2,000 tokens, bfloat16", one, "queries and keys in float32", each


def cache(policy: Policy) -> Iterator[Row]:
    problems = written(policy, 16, 1, 1).problems

    def held(budget: int | None) -> int:
        return most_added(lambda: policy.clone(cache_tokens=budget).sample(problems, rollouts_per_prompt=8))

    yield "sampling 128 responses, `cache_tokens: 1024`", held(1024), "all at once", held(None)


def rollouts_sent(branch: Branch) -> Iterator[Row]:
    rollouts: Rollouts = branch.collect("image", 0, 16, 8)
    there, whole = to_bytes(rollouts), pickle.dumps(rollouts)
    yield "128 responses to 16 pictures on their way to a teacher", len(there), "with the problems", len(whole)


def checkpoint(branch: Branch, folder: Path) -> Iterator[Row]:
    said = branch.write_state(folder / "image.safetensors")
    state = sum(tensor.nbytes for tensor in branch.state().values())
    yield "what a branch sends to the run for a checkpoint", len(to_bytes(said)), "its state", state


def merge(policy: Policy, folder: Path) -> Iterator[Row]:
    parts = {name: folder / name for name in "abc"}
    for part in parts.values():
        write_folder(policy.weights(), part)
    merged = most_merged(parts, folder / "merged")
    whole = sum(tensor.nbytes for path in parts.values() for tensor in StoredTensors(path, "").values())
    yield "a merge of 3", merged, "with all weights in memory", whole + whole // 3


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with branch_of("image") as branch:
            yield from weights(branch)
            yield from rollouts_sent(branch)
            yield from checkpoint(branch, folder)
            yield from merge(branch.policy, folder)
            for count in (gradients, frozen_base, masks, cache):
                yield from count(branch.policy.clone())


def main() -> None:
    torch.set_num_threads(1)
    print("| counted | bytes | the plainest way | bytes | ratio |\n|---|---|---|---|---|")
    for what, held, plainly, more in rows():
        print(f"| {what} | {held:,} | {plainly} | {more:,} | {more / held:,.1f} |", flush=True)


if __name__ == "__main__":
    main()
