"""Branches in this process, one call after the other, behind the awaitable handle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from torch import Tensor

from copd.branch import Actor, Branch, Counts
from copd.types import Part, Rollouts, Score, Split

T = TypeVar("T")


class LocalActor:
    """A model of this process that answers and looks at answers. Each call lets the others take their turn first."""

    def __init__(self, actor: Actor) -> None:
        self.name = actor.name
        self.allowed_tokens = actor.policy.allowed_tokens
        self._actor = actor

    async def validate(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        await asyncio.sleep(0)
        return self._actor.validate(split, task, count, rollouts_per_prompt, greedy=greedy)

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        await asyncio.sleep(0)
        return self._actor.inspect(rollouts, k, ids_NTK)

    async def texts(self, rollouts: Rollouts) -> list[str]:
        return self._actor.policy.texts(rollouts)

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        return self._actor.pieces(rollouts, row)


class LocalBranch(LocalActor):
    """A `BranchHandle` on a branch of this process."""

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.field = branch.field
        self._branch = branch

    async def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Rollouts:
        await asyncio.sleep(0)
        return self._branch.collect(task, step, prompts, rollouts_per_prompt)

    async def score(self, rollouts: Rollouts) -> Score:
        await asyncio.sleep(0)
        return self._branch.score(rollouts)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        await asyncio.sleep(0)
        return self._branch.update(parts)

    async def counts(self) -> dict[str, float]:
        return asdict(self._branch.counts)

    async def weights(self) -> Mapping[str, Tensor]:
        return self._branch.weights()

    async def state(self) -> dict[str, Tensor]:
        return self._branch.learner.state()

    async def load_state(self, tensors: dict[str, Tensor], version: int, counts: Mapping[str, float]) -> None:
        self._branch.load_state(tensors, version)
        self._branch.counts = Counts(**counts)  # type: ignore[arg-type]


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
