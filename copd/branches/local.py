"""Branches in this process, one call after the other, behind the awaitable handle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from copd.branches.branch import Actor, Branch, Counts
from copd.types import Part, Rollouts, Score, Split

T = TypeVar("T")


class Turns:
    """Models that share a device take turns on it: one is there and computes, the others wait on the CPU."""

    def __init__(self) -> None:
        self._there: dict[str, Actor] = {}

    def wait(self, actor: Actor) -> None:
        """Send a new model off to wait for its first turn."""
        actor.move("cpu")

    def take(self, actor: Actor) -> None:
        """Bring a model to its device, and the one that was there to the CPU first."""
        there = self._there.get(str(actor.home))
        if there is actor:
            return
        if there is not None:
            there.move("cpu")
        actor.move(actor.home)
        self._there[str(actor.home)] = actor


class LocalActor:
    """A model of this process that answers and looks at answers.

    Each call lets the others go first; with `turns` it takes the device instead, and keeps it until another needs it.
    """

    def __init__(self, actor: Actor, turns: Turns | None = None) -> None:
        self.name = actor.name
        self.allowed_tokens = actor.policy.allowed_tokens
        self._actor = actor
        self._turns = turns

    async def _turn(self) -> None:
        if self._turns is None:
            await asyncio.sleep(0)
        else:
            self._turns.take(self._actor)

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        await self._turn()
        return self._actor.answer_first(split, task, count, rollouts_per_prompt, greedy=greedy)

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        await self._turn()
        return self._actor.inspect(rollouts, k, ids_NTK)

    async def texts(self, rollouts: Rollouts) -> list[str]:
        return self._actor.policy.texts(rollouts)

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        return self._actor.pieces(rollouts, row)


class LocalBranch(LocalActor):
    """A `BranchHandle` on a branch of this process."""

    def __init__(self, branch: Branch, turns: Turns | None = None) -> None:
        super().__init__(branch, turns)
        self.capability = branch.capability
        self._branch = branch

    async def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Rollouts:
        await self._turn()
        return self._branch.collect(task, step, prompts, rollouts_per_prompt)

    async def score(self, rollouts: Rollouts) -> Score:
        await self._turn()
        return self._branch.score(rollouts)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        await self._turn()
        return self._branch.update(parts)

    async def counts(self) -> dict[str, float]:
        return asdict(self._branch.counts)

    async def weights(self) -> Mapping[str, Tensor]:
        return self._branch.weights()

    async def state(self) -> dict[str, Tensor]:
        return self._branch.state()

    async def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._branch.load_weights(weights)

    async def save(self, folder: Path, card: str) -> None:
        self._branch.save(folder, card)

    async def load_state(self, tensors: dict[str, Tensor], counts: Mapping[str, float]) -> None:
        self._branch.load_state(tensors)
        self._branch.counts = Counts(**counts)  # type: ignore[arg-type]


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
