"""What a short pilot says about capabilities: how much each branch's training gains, and what it costs the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from copd.maths.gradients import signal_cosine, signal_squared
from copd.maths.intervals import paired_difference
from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import Answers, Estimate
from copd.types import BASE, MERGED


@dataclass(frozen=True)
class Pilot:
    """Each branch has trained alone for `steps` steps of RLVR, on its own capability. Means over branches or pairs.

    base          greedy accuracy of the base, averaged over capabilities
    gain          accuracy of each branch in its own capability, less the base's
    harm          accuracy of the base in each capability, less that of the branches that trained on another
    gap           accuracy of each branch in its own capability, less that of the branches' mean of weights
    cosine        of the gradients of two capabilities at the base; None where noise hides them, and for adapters
    overlap       of two branches' likeliest tokens, at the smallest k
    symmetric_kl  of two branches, in nats
    no_signal     share of groups whose rewards are all equal, so that they teach nothing
    """

    steps: int
    base: float
    gain: Estimate
    harm: Estimate
    gap: Estimate
    cosine: float | None
    overlap: float
    symmetric_kl: float
    no_signal: float

    def as_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Pilot:
        """The pilot from a record of `as_record`, whether read from JSON or not."""
        return cls(**{**record, **{name: Estimate(**record[name]) for name in ("gain", "harm", "gap")}})


@dataclass(frozen=True)
class GradientSample:
    """Independent gradients of one capability at the same weights: their sum by parameter, and the square of each."""

    total: Sequence[Tensor]
    squares: Sequence[float]

    @property
    def signal(self) -> float:
        """The estimate of the squared norm of the expected gradient."""
        return signal_squared(_dot(self.total, self.total) / len(self.squares) ** 2, self.squares)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(first, second, strict=True)))


def mean_cosine(samples: Mapping[str, GradientSample]) -> float | None:
    """The mean cosine over all pairs of capabilities of which neither is hidden by noise; None without such a pair."""
    found = []
    for first, second in combinations(samples.values(), 2):
        dot = _dot(first.total, second.total) / (len(first.squares) * len(second.squares))
        found.append(signal_cosine(dot, first.signal, second.signal))
    told = [cosine for cosine in found if cosine is not None]
    return fmean(told) if told else None


def summary(
    steps: int,
    answers: Sequence[Answers],
    behaviour: Behaviour,
    gradients: Mapping[str, GradientSample] | None,
    no_signal: float,
) -> Pilot:
    """The pilot from its measures; without `gradients` it has no cosine.

    `answers` are those of base, branches and merge to the same problems.

    A branch and its capability have one name, as everywhere.
    """
    right = {(a.model, a.capability): a.greedy_P for a in answers}
    names = [name for name in dict.fromkeys(a.model for a in answers) if name not in (BASE, MERGED)]
    base = {name: right[BASE, name] for name in names}
    own = {name: right[name, name] for name in names}
    others = {name: torch.stack([right[other, name] for other in names if other != name]).mean(0) for name in names}
    pairs = [(student, teacher) for student in names for teacher in names if student != teacher]
    overlap = behaviour.overlap[min(behaviour.overlap)]
    return Pilot(
        steps,
        fmean(float(base_P.mean()) for base_P in base.values()),
        Estimate(*paired_difference([(base[name], own[name]) for name in names])),
        Estimate(*paired_difference([(others[name], base[name]) for name in names])),
        Estimate(*paired_difference([(right[MERGED, name], own[name]) for name in names])),
        mean_cosine(gradients) if gradients else None,
        fmean(overlap[student][teacher] for student, teacher in pairs),
        fmean(behaviour.symmetric_kl[student][teacher] for student, teacher in pairs),
        no_signal,
    )
