"""What the two loops of sampling compute and hold when responses have unequal lengths.

    python -m benchmarks.sampling

A tiny model with random weights, which ends a response at any token with about the same probability. The loop that
cards take runs on the CPU here, both through the modules of transformers: seconds say nothing about cards. Steps, rows,
tokens and bytes are counted, and are the same there. A card's step of few rows costs as much as one of many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.growth import make_policy
from benchmarks.ours import Lengthened
from copd.compute import forward
from copd.compute.decode import ModelStep
from copd.compute.forward import Forward
from copd.compute.refill import RowCache
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Problem, Split

EVERYTHING = 10**9


@dataclass(frozen=True)
class Work:
    """The size of a sampling call. `budget`: `sampling.cache_tokens`."""

    prompts: int = 8
    rollouts: int = 8
    prompt: int = 64
    limit: int = 400
    budget: int = 2_000


@dataclass
class Counted:
    """What a sampling call did: steps of the loop, rows in all steps, tokens of prefills, most bytes of a cache."""

    steps: int = 0
    rows: int = 0
    prefilled: int = 0
    bytes_held: int = 0
    seconds: float = 0.0
    tokens: int = 0
    longest: int = 0


@contextmanager
def counting(counted: Counted) -> Iterator[None]:
    """Count what is computed and held inside the block."""
    step, prefill, arranged, placed = ModelStep.__call__, Forward.prefill, RowCache.layers, forward.placed_layers

    def counted_step(self: Any, ids_M: Any, *given: Any) -> Any:
        counted.steps, counted.rows = counted.steps + 1, counted.rows + len(ids_M)
        return step(self, ids_M, *given)

    def counted_prefill(self: Any, prompts: Any) -> Any:
        counted.prefilled += prompts.ids_PS.numel()
        return prefill(self, prompts)

    def counted_buffers(self: Any) -> Any:
        counted.bytes_held = max(counted.bytes_held, sum(buffer.nbytes for buffer in self.buffers))
        return arranged(self)

    def counted_layers(cache: Any, room: int, columns: int) -> Any:
        one = sum(part[:1, :, :1].nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        counted.bytes_held = max(counted.bytes_held, one * room * columns)
        return placed(cache, room, columns)

    with ExitStack() as stack:
        for owner, name, function in (
            (ModelStep, "__call__", counted_step),
            (Forward, "prefill", counted_prefill),
            (RowCache, "layers", counted_buffers),
            (forward, "placed_layers", counted_layers),
        ):
            stack.enter_context(patch.object(owner, name, function))
        yield


class Ending(nn.Linear):
    """An output head under which a response ends after any token with a probability of about one in fifty."""

    end_ids: torch.Tensor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden)
        return logits.index_copy(-1, self.end_ids, logits.logsumexp(-1, keepdim=True) - math.log(50))


def unequal(work: Work) -> tuple[Policy, list[Problem]]:
    """A policy whose responses have unequal lengths, and the problems of a call."""
    policy = make_policy(128)
    head = policy.model.get_output_embeddings()
    head.__class__, head.end_ids = Ending, policy.end_ids
    task = Lengthened(Digits("text"), work.prompt)
    return policy, [task.problem(Split.TRAIN, n) for n in range(work.prompts)]


def sample(policy: Policy, problems: list[Problem], work: Work, *, refilled: bool, budget: int) -> Counted:
    """A sampling call by one of the loops."""
    counted = Counted()
    policy.micro_batch_tokens = budget
    with (
        counting(counted),
        patch("copd.model.builtin_sampler.refills", lambda device: refilled),
        patch("copd.compute.forward.can_be_lean", lambda *given: False),
    ):
        generator = torch.Generator().manual_seed(0)
        options = {"rollouts_per_prompt": work.rollouts, "max_new_tokens": work.limit}
        started = time.perf_counter()
        rollouts = policy.sample(problems, generator=generator, **options)
        counted.seconds = time.perf_counter() - started
    counted.tokens, counted.longest = int(rollouts.mask_NT.sum()), rollouts.tokens_NT.shape[1]
    return counted


SIDES: Mapping[str, tuple[bool, bool]] = {
    "batches, as if all rows were at the limit": (False, True),
    "places refilled": (True, True),
    "one batch without a budget": (False, False),
}
"""Whether places are refilled, and whether there is a budget."""


def measure(work: Work = Work()) -> dict[str, Counted]:
    """What each side counts, for the same random numbers."""
    policy, problems = unequal(work)
    return {
        name: sample(policy, problems, work, refilled=refilled, budget=work.budget if bounded else EVERYTHING)
        for name, (refilled, bounded) in SIDES.items()
    }


def table(found: Mapping[str, Counted]) -> str:
    """The counts as Markdown."""
    lines = ["| loop | steps | rows in all steps | tokens prefilled | cache | seconds |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        counts = f"{one.steps:,} | {one.rows:,} | {one.prefilled:,} | {one.bytes_held / 2**20:.1f} MiB"
        lines.append(f"| {name} | {counts} | {one.seconds:.1f} |")
    one = found["places refilled"]
    return "\n".join([*lines, "", f"{one.tokens:,} tokens, {one.longest} in the longest response"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(measure()))
