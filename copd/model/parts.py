"""The objectives of an optimizer step, each over its own rollouts and with its own denominator (method.md, trap 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from copd.maths.distill import sampled_delta
from copd.types import Rollouts


class Objective(Protocol):
    """What the learner needs to know of a part: its rows, its weight, and the advantage of each token."""

    @property
    def name(self) -> str: ...

    @property
    def rollouts(self) -> Rollouts: ...

    @property
    def weight(self) -> float: ...

    def rows_with_gradient(self) -> Tensor:
        """Indices of the rows that need a forward and backward pass. The others count in the denominator only."""
        ...

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantage of each token [M, T] given the detached log-probs of the training forward, and values to log."""
        ...


@dataclass(frozen=True, eq=False)
class GrpoObjective:
    """Native RLVR: one advantage per response; rows of advantage 0 are skipped, exactly."""

    name: str
    rollouts: Rollouts
    weight: float
    advantage_N: Tensor

    def rows_with_gradient(self) -> Tensor:
        return self.advantage_N.nonzero()[:, 0]

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.advantage_N[rows_M].to(logp_MT)[:, None].expand_as(logp_MT), {}


@dataclass(frozen=True, eq=False)
class DistillObjective:
    """OPD: the clamped sampled-token delta to the teacher is the advantage of each token (method.md eq. 3, 4)."""

    name: str
    rollouts: Rollouts
    weight: float
    teacher_logp_NT: Tensor
    clamp: float

    def rows_with_gradient(self) -> Tensor:
        return torch.arange(len(self.rollouts.tokens_NT))

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        teacher_MT = self.teacher_logp_NT[rows_M, : logp_MT.shape[1]].to(logp_MT)
        delta_MT = sampled_delta(logp_MT, teacher_MT, clamp=self.clamp)
        clamped_MT = ((teacher_MT - logp_MT).abs() > self.clamp).float()
        return delta_MT, {"delta": delta_MT, "delta_abs": delta_MT.abs(), "clamp_rate": clamped_MT}
