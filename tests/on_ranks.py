"""A learner on one of the ranks of a branch, as a program: RANK COUNT PORT FOLDER KIND...

It trains by the same rollouts whatever the number of ranks. It writes what it found into FOLDER/COUNT-RANK, and a
checkpoint. It reads the checkpoints that others have written there before.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import KINDS, _policy
from in_float64 import in_float64
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from copd.branches.state import read_shards, read_state, write_shards, write_state
from copd.compute.ranks import ALONE, Meeting, Ranks, joined
from copd.errors import CheckpointError
from copd.maths.distill import clamped_delta
from copd.maths.divergences import reverse_kl
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import DenseObjective, DistillObjective, GrpoObjective, Objective
from copd.model.policy import Policy
from copd.model.sharded import ShardedLearner
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split

SETTINGS = {"learning_rate": 1e-3, "betas": (0.0, 0.99)}
ADVANTAGES = {
    "text": [1.5, -0.5, 0.0, 0.7, -2.0, 0.0, 0.3, 0.1],
    "image": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0],
    "video": [0.0] * 8,
    "mixed": [1.5, -0.5, 0.2, 0.7, -2.0, 0.1, 0.4, -0.3, 1.0, -1.0, 0.6, 0.5],
}
"""By kind of prompt: signal in all groups, in one of four, in none; and prompts of three kinds in one batch."""


def rollouts_of(policy: Policy, kind: str) -> Rollouts:
    """Two responses to each of some problems; those of all kinds if the kind is mixed."""
    kinds, count = (KINDS, 2) if kind == "mixed" else ([kind], 4)
    problems = [Digits(each, conflict=1.0).problem(Split.TRAIN, i) for each in kinds for i in range(count)]
    generator = torch.Generator().manual_seed(3)
    return policy.sample(problems, rollouts_per_prompt=2, generator=generator, max_new_tokens=9)


def objectives(policy: Policy, kind: str) -> Iterator[tuple[str, list[Objective]]]:
    """GRPO, and OPD by the sampled token and over the vocabulary; the two parts of an OPD step."""
    rollouts = rollouts_of(policy, kind)
    advantage_N = torch.tensor(ADVANTAGES[kind], dtype=torch.float64)
    grpo = GrpoObjective("grpo", rollouts, 1.0, advantage_N)
    teacher_NT = rollouts.logp_NT + torch.linspace(-3, 3, rollouts.logp_NT.numel()).view(rollouts.logp_NT.shape)
    sampled = DistillObjective("opd", rollouts, 0.5, teacher_NT, partial(clamped_delta, bound=2.0))
    other = _policy(policy.processor, in_float64, seed=1)
    dense = DenseObjective("opd", rollouts, 0.5, other.score(rollouts, whole=True), reverse_kl)
    yield "grpo", [grpo]
    yield "sampled", [grpo, sampled]
    yield "dense", [dense]


def policies() -> Iterator[tuple[str, Policy]]:
    """A whole model, small micro-batches and checkpointed layers, and an adapter."""
    from copd.model.tiny import tiny_processor

    processor = tiny_processor()
    plain = _policy(processor, in_float64)
    plain.micro_batch_tokens = 60
    yield "whole", plain
    yield "checkpointed", plain._with(plain.duplicate().model, gradient_checkpointing=True, micro_batch_tokens=60)
    yield "lora", plain.duplicate().with_adapter("text", LoraSettings(2, 4.0, ("q_proj", "v_proj")), seed=5)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()


def trained(policy: Policy, parts: Sequence[Objective]) -> tuple[Learner, dict[str, Tensor], list[Any]]:
    """A learner that has made two steps; the gradient before them, the weights after them, the reports."""
    learner = (Learner if policy.ranks is ALONE else ShardedLearner)(policy, **SETTINGS)
    gradient = dict(zip(learner.named_parameters, learner.gradient(parts[0]), strict=True))
    reports = [vars(learner.step(parts, part_norms=True)) for _ in range(2)]
    weights = {f"weight/{name}": whole(parameter) for name, parameter in policy.trained_parameters().items()}
    return learner, {**{f"gradient/{name}": g for name, g in gradient.items()}, **weights}, reports


def written(learner: Learner, folder: Path, ranks: Ranks) -> dict[str, Tensor]:
    """The state of a learner, which is also written as a checkpoint."""
    ranks.first(lambda: folder.mkdir())
    ranks.first(lambda: write_state(learner.state(), folder / "text.safetensors"))
    write_shards(learner.shards(), folder / "text", ranks)
    return state(learner)


def state(learner: Learner) -> dict[str, Tensor]:
    return {f"state/{name}": whole(tensor) for name, tensor in {**learner.state(), **learner.shards()}.items()}


def refused(learner: Learner, folder: Path, ranks: Ranks) -> str:
    """What a rank says of a checkpoint whose last part does not fit on the disk of the last rank."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == ranks.count - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        write_shards(learner.shards(), folder, ranks)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return ""


def answered(policy: Policy) -> dict[str, Tensor]:
    """Samples, greedy ones too, and all kinds of scores, of two problems by up to three ranks."""
    problems = [Digits("image", conflict=1.0).problem(Split.TRAIN, i) for i in range(2)]
    asked = {"rollouts_per_prompt": 3, "max_new_tokens": 9}
    drawn = policy.sample(problems, generator=torch.Generator().manual_seed(8), **asked)
    score = policy.score(drawn, k=3, whole=True)
    return {
        "tokens": drawn.tokens_NT,
        "greedy": policy.sample(problems, **asked).tokens_NT,
        "logp": drawn.logp_NT,
        "scored": score.logp_NT,
        "whole": score.whole_MV.exp(),
        "likeliest": score.topk_logp_NTK,
        "at": policy.score(drawn, ids_NTK=score.topk_ids_NTK).at_ids_NTK,
    }


def main(rank: int, count: int, port: int, folder: Path, kinds: Sequence[str]) -> None:
    torch.set_num_threads(1)
    meeting, there = Meeting(f"127.0.0.1:{port}", rank, count), sorted(folder.glob("checkpoint-*"))
    tensors: dict[str, Tensor] = {}
    reports: dict[str, Any] = {}
    with joined(meeting, torch.device("cpu"), 1) if count > 1 else nullcontext(ALONE) as ranks:
        for what, policy in policies():
            for kind in kinds if what == "whole" else ["mixed"]:
                for name, parts in objectives(policy, kind):
                    own, case = policy.duplicate(), f"{what} {kind} {name}"
                    own.ranks = ranks
                    learner, found, reports[case] = trained(own, parts)
                    tensors |= {f"{case}/{each}": tensor for each, tensor in found.items()}
            if what == "whole":
                told = refused(learner, folder / f"refused-{count}", ranks)
                (folder / f"{count}-{rank}.txt").write_text(told)
                tensors |= answered(own) | written(learner, folder / f"checkpoint-{count}", ranks)
                for other in there:
                    shards = read_shards(other / "text", learner.blank)
                    learner.load_state(read_state(other / "text.safetensors") | shards)
                    tensors |= {f"{other.name}/{name}": tensor for name, tensor in state(learner).items()}
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / f"{count}-{rank}.safetensors")
    (folder / f"{count}-{rank}.json").write_text(json.dumps(reports))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
