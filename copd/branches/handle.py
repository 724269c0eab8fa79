"""The only class of handles: the calls to branches and models, wherever they live.

A handle carries its calls to an object of this process (`copd.branches.local`), to the branch's own process
(`copd.branches.processes`), or to its actor (`copd.branches.ray`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from copd.types import Part, Rated, Rollouts, Score, SettledPath, Split, StateFile

Carry = Callable[..., Awaitable[Any]]
"""Carries a call to a branch: the method's name, then its arguments. Returns or raises whatever the method does."""


class Handle:
    """A `copd.types.BranchHandle`; for a model that is only evaluated, an `Observed`.

    `collect`, `replay` and `score` return rollouts and scores in the form that the carrier gives them, in which `score`
    and `update` take them.
    """

    def __init__(self, name: str, allowed_tokens: int, carry: Carry, capability: str = "") -> None:
        self.name = name
        self.allowed_tokens = allowed_tokens
        self.capability = capability
        self._carry = carry

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        return await self._carry("answer_first", split, task, count, rollouts_per_prompt, greedy=greedy)

    async def rate(self, number: int, places: range, samples: int) -> Rated:
        return await self._carry("rate", number, places, samples)

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        return await self._carry("inspect", rollouts, k, ids_NTK)

    async def texts(self, rollouts: Rollouts) -> list[str]:
        return await self._carry("texts", rollouts)

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        return await self._carry("pieces", rollouts, row)

    async def collect(
        self, task: str, step: int, prompts: int, rollouts_per_prompt: int, *, visit: bool = False
    ) -> Any:
        return await self._carry("collect", task, step, prompts, rollouts_per_prompt, visit=visit)

    async def replay(self, place: int) -> Any:
        return await self._carry("replay", place)

    async def score(self, rollouts: Any) -> Any:
        return await self._carry("score", rollouts)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        return await self._carry("update", parts)

    async def native_gradients(
        self, steps: range, prompts: int, rollouts_per_prompt: int
    ) -> tuple[list[Tensor], list[float]]:
        return await self._carry("native_gradients", steps, prompts, rollouts_per_prompt)

    async def hold(self) -> None:
        await self._carry("hold")

    async def release(self) -> None:
        await self._carry("release")

    async def settled_path(self) -> SettledPath:
        return await self._carry("settled_path")

    async def write_weights(self, folder: Path) -> None:
        await self._carry("write_weights", folder)

    async def load_weights(self, folder: Path) -> None:
        await self._carry("load_weights", folder)

    async def counts(self) -> dict[str, float]:
        return await self._carry("counts")

    async def write_state(self, path: Path) -> Sequence[StateFile] | None:
        return await self._carry("write_state", path)

    async def start_optimizer(self) -> None:
        await self._carry("start_optimizer")

    async def read_state(self, path: Path, counts: Mapping[str, float]) -> None:
        await self._carry("read_state", path, counts)

    async def save(self, folder: Path, card: str, export_dtype: str = "float32") -> None:
        await self._carry("save", folder, card, export_dtype)
