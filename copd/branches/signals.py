"""The signals of OPD: what a student asks of its teacher, what the teacher answers, and the objective made of it.

sampled                   the log-prob of each sampled token                      (method.md eq. 3, 4)
reverse_kl and the like   the distribution at each token, over the whole vocabulary or over K tokens and a bucket
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from copd.maths.divergences import Divergence
from copd.model.objectives import Corrected, Delta, DenseObjective, DistillObjective, Objective, as_it_is
from copd.model.policy import Policy
from copd.types import Part, Rollouts, Score


class Signal(Protocol):
    """A signal of OPD, the same for all branches of a run."""

    def asked(self, student: Policy, rollouts: Rollouts) -> Rollouts:
        """The student's rollouts with what its teacher needs to know."""
        ...

    def score(self, teacher: Policy, rollouts: Rollouts, version: int) -> Score:
        """The teacher's answer, as of its weights `version`."""
        ...

    def objective(self, part: Part, score: Score) -> Objective:
        """The objective of a part with this answer."""
        ...


@dataclass(frozen=True)
class SampledToken:
    """The bounded delta of the sampled token is its advantage.

    The objective is an expectation over the student's tokens, and so `corrected` if another engine sampled them.
    """

    delta: Delta
    corrected: Corrected = as_it_is

    def asked(self, student: Policy, rollouts: Rollouts) -> Rollouts:
        return rollouts

    def score(self, teacher: Policy, rollouts: Rollouts, version: int) -> Score:
        return teacher.score(rollouts, version=version)

    def objective(self, part: Part, score: Score) -> Objective:
        return self.corrected(DistillObjective(part.name, part.rollouts, part.weight, score.logp_NT, self.delta))


@dataclass(frozen=True)
class _Dense:
    divergence: Divergence

    def asked(self, student: Policy, rollouts: Rollouts) -> Rollouts:
        return rollouts

    def objective(self, part: Part, score: Score) -> Objective:
        return DenseObjective(part.name, part.rollouts, part.weight, score, self.divergence)


@dataclass(frozen=True)
class WholeVocabulary(_Dense):
    """A divergence over the whole vocabulary."""

    def score(self, teacher: Policy, rollouts: Rollouts, version: int) -> Score:
        return teacher.score(rollouts, whole=True, version=version)


@dataclass(frozen=True)
class TeachersLikeliest(_Dense):
    """A divergence over the teacher's `k` likeliest tokens and a bucket for the rest."""

    k: int

    def score(self, teacher: Policy, rollouts: Rollouts, version: int) -> Score:
        return teacher.score(rollouts, k=self.k, version=version)


@dataclass(frozen=True)
class StudentsLikeliest(_Dense):
    """A divergence over the student's `k` likeliest tokens and a bucket for the rest."""

    k: int

    def asked(self, student: Policy, rollouts: Rollouts) -> Rollouts:
        return replace(rollouts, likeliest_NTK=student.score(rollouts, k=self.k).topk_ids_NTK)

    def score(self, teacher: Policy, rollouts: Rollouts, version: int) -> Score:
        return teacher.score(rollouts, ids_NTK=rollouts.likeliest_NTK, version=version)
