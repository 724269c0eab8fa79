"""The objectives of an optimizer step, each over its own rollouts and with its own denominator (method.md, trap 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from copd.maths.distill import sampled_delta
from copd.maths.divergences import Divergence, Target
from copd.maths.importance import effective_share, importance_weights
from copd.maths.losses import constant_mean, k3_kl, sequence_mean, token_mean
from copd.types import Rollouts, Score

Aggregate = Callable[[Tensor, Tensor], Tensor]
"""(values [M, T], mask [M, T]) of a micro-batch -> its share of the part's objective."""
Delta = Callable[[Tensor, Tensor], Tensor]
"""(the student's log-probs [M, T], the teacher's) -> the bounded delta of each token."""
IMPORTANCE, IMPORTANCE_SQUARED = "importance", "importance_squared"
EFFECTIVE_SHARE = "effective_share"
"""Metrics of a part: the mean importance weight of its tokens, that of the squares, and what both say together."""


def over_sequences(rollouts: Rollouts) -> Aggregate:
    """`sequence_mean` over all responses of a part."""
    return partial(sequence_mean, sequences=len(rollouts.tokens_NT))


def over_tokens(rollouts: Rollouts) -> Aggregate:
    """`token_mean` over all response tokens of a part; 0 where it has none."""
    return partial(token_mean, tokens=max(1, int(rollouts.mask_NT.sum())))


def over_constant(rollouts: Rollouts, *, max_new_tokens: int) -> Aggregate:
    """`constant_mean` over all responses of a part, as if each had `max_new_tokens`."""
    return partial(constant_mean, sequences=len(rollouts.tokens_NT), max_new_tokens=max_new_tokens)


class Objective(Protocol):
    """A part as the learner sees it: its rows, its weight, and the advantage and penalty of each token."""

    @property
    def name(self) -> str: ...

    @property
    def rollouts(self) -> Rollouts: ...

    @property
    def weight(self) -> float: ...

    @property
    def key_N(self) -> Tensor | None:
        """A value that responses must share, besides their tokens, to be trained on as one row; None: no value."""
        ...

    def rows_with_gradient(self) -> Tensor:
        """Indices of the rows that need a forward and backward pass. The other rows count only in the denominator."""
        ...

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantage of each token [M, T] given the detached log-probs of the first iteration, and values to log."""
        ...

    def penalty(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The penalty subtracted from each token's surrogate [M, T], differentiable in the log-probs; values to log."""
        ...

    def target(self, rows_M: Tensor) -> Target | None:
        """The target of these rows' tokens. The divergence from it is subtracted too; None: there is none."""
        ...


Corrected = Callable[[Objective], Objective]
"""What makes an expectation over the trainer's tokens of one over the sampler's: `as_it_is`, if the trainer samples."""


def as_it_is(objective: Objective) -> Objective:
    """The objective itself, for tokens that the trainer itself sampled: no weights are computed."""
    return objective


@dataclass(frozen=True, eq=False)
class _Objective:
    """What most objectives have in common: every row has a gradient, there is no penalty and no target."""

    name: str
    rollouts: Rollouts
    weight: float

    @property
    def key_N(self) -> Tensor | None:
        """None: a teacher gives equal responses the same log-probs, up to rounding.

        The log-probs of the first are used.
        """
        return None

    def rows_with_gradient(self) -> Tensor:
        return torch.arange(len(self.rollouts.tokens_NT))

    def penalty(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.zeros_like(logp_MT), {}

    def target(self, rows_M: Tensor) -> Target | None:
        return None


@dataclass(frozen=True, eq=False)
class GrpoObjective(_Objective):
    """Native RLVR: one advantage per response. Rows whose advantage is exactly 0 are skipped."""

    advantage_N: Tensor

    @property
    def key_N(self) -> Tensor:
        """The advantage: equal responses may differ in it, since a grader need not be deterministic."""
        return self.advantage_N

    def rows_with_gradient(self) -> Tensor:
        return self.advantage_N.nonzero()[:, 0]

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.advantage_N[rows_M].to(logp_MT)[:, None].expand_as(logp_MT), {}


@dataclass(frozen=True, eq=False)
class AnchoredGrpoObjective(GrpoObjective):
    """Native RLVR near a reference: `kl_coefficient` times the k3 estimate of the KL is subtracted on each token.

    Rows of advantage 0 have a gradient here, so that no row is skipped.
    """

    reference_logp_NT: Tensor
    kl_coefficient: float

    def rows_with_gradient(self) -> Tensor:
        return _Objective.rows_with_gradient(self)

    def penalty(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        kl_MT = k3_kl(logp_MT, self.reference_logp_NT[rows_M, : logp_MT.shape[1]].to(logp_MT))
        return self.kl_coefficient * kl_MT, {"kl": kl_MT.detach()}


@dataclass(frozen=True, eq=False)
class DistillObjective(_Objective):
    """OPD: the bounded delta to the teacher is the advantage of each token (method.md eq. 3, 4).

    If a teacher's log-prob is not finite, its delta is NaN. No bound can hide this, so the learner skips the step.
    """

    teacher_logp_NT: Tensor
    delta: Delta

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        teacher_MT = self.teacher_logp_NT[rows_M, : logp_MT.shape[1]].to(logp_MT)
        delta_MT = torch.where(teacher_MT.isfinite(), self.delta(logp_MT, teacher_MT), torch.nan)
        changed_MT = (delta_MT != sampled_delta(logp_MT, teacher_MT)).float()
        return delta_MT, {"delta": delta_MT, "delta_abs": delta_MT.abs(), "clamp_rate": changed_MT}


@dataclass(frozen=True, eq=False)
class DenseObjective(_Objective):
    """OPD by a direct loss: the divergence of the policy's distribution from the teacher's at each token.

    `score` holds the teacher's log-probs, of the whole vocabulary or of the ids that a `target` compares. The sampled
    token's delta is only logged. A log-prob of the teacher that is not finite makes the loss NaN or infinite, so the
    learner skips the step.
    """

    score: Score
    divergence: Divergence

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        delta_MT = sampled_delta(logp_MT, self.score.logp_NT[rows_M, : logp_MT.shape[1]].to(logp_MT))
        return torch.zeros_like(logp_MT), {"delta": delta_MT, "delta_abs": delta_MT.abs()}

    def target(self, rows_M: Tensor) -> Target:
        mask_NT, score = self.rollouts.mask_NT, self.score
        if score.whole_MV is not None:
            place_NT = mask_NT.flatten().cumsum(0).view_as(mask_NT) - 1
            return Target(self.divergence, score.whole_MV[place_NT[rows_M][mask_NT[rows_M]]])
        ids_NTK, logp_NTK = score.topk_ids_NTK, score.topk_logp_NTK
        if ids_NTK is None:
            ids_NTK, logp_NTK = self.rollouts.likeliest_NTK, score.at_ids_NTK
        assert ids_NTK is not None
        assert logp_NTK is not None
        mask_MT = mask_NT[rows_M]
        return Target(self.divergence, logp_NTK[rows_M][mask_MT], ids_NTK[rows_M][mask_MT])


@dataclass(frozen=True, eq=False)
class ReweightedObjective:
    """An objective that is an expectation over sampled tokens, where another engine than the trainer sampled them.

    Each token's advantage and penalty are multiplied by its truncated importance weight. The weight makes up for the
    choice of the token alone: the tokens before it are taken as the sampler chose them. So a direct loss, which sums
    over all tokens in the place of a choice, is never reweighted. Of equal rows the first one's weights are used.
    """

    objective: Objective
    cap: float

    @property
    def name(self) -> str:
        return self.objective.name

    @property
    def rollouts(self) -> Rollouts:
        return self.objective.rollouts

    @property
    def weight(self) -> float:
        return self.objective.weight

    @property
    def key_N(self) -> Tensor | None:
        return self.objective.key_N

    def rows_with_gradient(self) -> Tensor:
        return self.objective.rows_with_gradient()

    def advantage(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        advantage_MT, logged = self.objective.advantage(rows_M, logp_MT)
        weight_MT = self._weights(rows_M, logp_MT)
        return weight_MT * advantage_MT, {**logged, IMPORTANCE: weight_MT, IMPORTANCE_SQUARED: weight_MT.square()}

    def penalty(self, rows_M: Tensor, logp_MT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        penalty_MT, logged = self.objective.penalty(rows_M, logp_MT)
        return self._weights(rows_M, logp_MT) * penalty_MT, logged

    def target(self, rows_M: Tensor) -> Target | None:
        return self.objective.target(rows_M)

    def _weights(self, rows_M: Tensor, logp_MT: Tensor) -> Tensor:
        sampler_MT = self.rollouts.logp_NT[rows_M, : logp_MT.shape[1]].to(logp_MT)
        return importance_weights(logp_MT, sampler_MT, cap=self.cap)


def with_effective_share(metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's metrics, with the effective share of a part's tokens in the place of the mean square of its weights."""
    named = {}
    for name, value in metrics.items():
        part, _, what = name.rpartition("/")
        if what == IMPORTANCE_SQUARED:
            named[f"{part}/{EFFECTIVE_SHARE}"] = effective_share(metrics[f"{part}/{IMPORTANCE}"], value)
        else:
            named[name] = value
    return named
