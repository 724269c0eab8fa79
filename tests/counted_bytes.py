"""Bytes as torch allocates them on the CPU, and batches of one size, for the formula of memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from copd.costs.memory import Batch
from copd.maths import merge as merges
from copd.model import merging
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split


def most_added(work: Callable[[], object]) -> int:
    """The most bytes of tensors at once while `work` runs, beyond those before it: every allocation is counted.

    What earlier work has left to the garbage collector goes before, so that it is not taken off.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = watched.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def most_merged(parts: Mapping[str, Path], out: Path) -> int:
    """The most bytes of tensors at once while folders of weights are merged: when a tensor of each has been merged.

    Tensors that are read from files are not allocated by torch, so those that came alive meanwhile are counted.
    """
    fullest, plainly = 0, merges.merge_tensor

    def noted(*arguments: Any, **options: Any) -> Any:
        nonlocal fullest
        merged = plainly(*arguments, **options)
        fullest = max(fullest, _alive())
        return merged

    gc.freeze()  # what was there before is not looked through at every tensor
    try:
        with patch.object(merges, "merge_tensor", noted):
            merging.merge_weights(parts, out, "mean", {})
    finally:
        gc.unfreeze()
    return fullest


def _alive() -> int:
    """Bytes of the tensors that the garbage collector holds, but for those that it has frozen."""
    tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
    return sum({each.data_ptr(): each.nbytes for each in tensors if each.device.type == "cpu"}.values())


def written(policy: Any, prompts: int, rows_per_prompt: int, length: int, kind: str = "text") -> Rollouts:
    """Random responses of one length to so many copies of one prompt."""
    problem = Digits(kind).problem(Split.TRAIN, 0)
    rows = prompts * rows_per_prompt
    allowed = (~policy.banned_V).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    return Rollouts(
        problems=tuple(replace(problem, id=str(i)) for i in range(prompts)),
        tokens_NT=allowed[torch.randint(len(allowed), (rows, length), generator=generator)],
        mask_NT=torch.ones(rows, length, dtype=torch.bool),
        finished_N=torch.zeros(rows, dtype=torch.bool),
        logp_NT=torch.zeros(rows, length),
        prompt_of_N=torch.arange(prompts).repeat_interleave(rows_per_prompt),
        temperature=1.0,
    )


def batch_of(policy: Any, rollouts: Rollouts) -> Batch:
    """The same rollouts as the formula of memory sees them."""
    (encoded,) = policy.encoder.family.encode(rollouts.problems[:1])
    patches = sum(len(values) for name, values in encoded.media.items() if name.startswith("pixel"))
    prompts, (rows, length) = len(rollouts.problems), rollouts.tokens_NT.shape
    return Batch(prompts, rows, len(encoded.ids_S), length, prompts * patches)


class Trained(NamedTuple):
    """A learner after its steps, one of their equal micro-batches, and the most bytes that a step has added."""

    learner: Learner
    batch: Batch
    one_part: int
    two_parts: int


def trained(policy: Any, kind: str = "text") -> Trained:
    """Steps of two equal micro-batches: after the first, which makes the moments, one of one part, one of two."""
    rollouts, batch = written(policy, 4, 4, 30, kind), batch_of(policy, written(policy, 2, 4, 30, kind))
    policy.micro_batch_tokens = batch.prompts * batch.prompt + batch.rows * batch.response
    assert len(policy.micro_batches(rollouts, torch.arange(16))) == 2
    learner = Learner(policy, learning_rate=1e-4)
    objective = GrpoObjective("native", rollouts, 1.0, torch.linspace(-1, 1, 16))
    learner.step([objective])
    one = most_added(lambda: learner.step([objective]))
    two = most_added(lambda: learner.step([objective, replace(objective, name="taught")]))
    return Trained(learner, batch, one, two)
