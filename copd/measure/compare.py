"""Comparisons of models on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from copd.maths.intervals import paired_difference
from copd.measure.evaluate import AVERAGE, Answers, Estimate


@dataclass(frozen=True)
class Difference:
    """Greedy accuracy of `model` minus that of `against` on one capability, with its paired 95 % interval."""

    model: str
    against: str
    capability: str
    greedy: Estimate

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.greedy.low > 0 or self.greedy.high < 0


def lead_of_teacher(teacher_P: Tensor, student_P: Tensor) -> Estimate:
    """Teacher's less student's share of right responses to the same problems, with its paired 95 % interval."""
    return Estimate(*paired_difference([(student_P, teacher_P)]))


def differences(answers: Sequence[Answers], against: str) -> list[Difference]:
    """Compare every other model with `against`, in every capability in which both were asked the same problems.

    "average" counts each capability alike. It is given only if both models were asked the same problems in all of them.
    """
    reference = {a.capability: a for a in answers if a.model == against}
    found = []
    for model in dict.fromkeys(a.model for a in answers):
        if model == against:
            continue
        own = {a.capability: a for a in answers if a.model == model}
        shared = [f for f, a in own.items() if f in reference and a.problems == reference[f].problems]
        pairs = {f: (reference[f].greedy_P, own[f].greedy_P) for f in shared}
        found += [Difference(model, against, f, Estimate(*paired_difference([pair]))) for f, pair in pairs.items()]
        if shared and len(shared) == len(own) == len(reference):
            found.append(Difference(model, against, AVERAGE, Estimate(*paired_difference(list(pairs.values())))))
    return found
