"""Branches in this process, one call after the other, behind the awaitable handle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from torch import Tensor

from copd.branch import Branch
from copd.types import Part, Rollouts, Score


class LocalBranch:
    """A `BranchHandle` on a branch of this process. Each call lets the other branches take their turn first."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.name = branch.name
        self.field = branch.field

    async def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Rollouts:
        await asyncio.sleep(0)
        return self.branch.collect(task, step, prompts, rollouts_per_prompt)

    async def score(self, rollouts: Rollouts, k: int = 0, ids_NTK: Tensor | None = None) -> Score:
        await asyncio.sleep(0)
        return self.branch.score(rollouts, k, ids_NTK)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        await asyncio.sleep(0)
        return self.branch.update(parts)

    async def weights(self) -> Mapping[str, Tensor]:
        return self.branch.weights()
