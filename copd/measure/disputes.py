"""Where a teacher disagrees most with a student, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from copd.handles import Observed
from copd.measure.behaviour import Likeness, Scored, answer_and_score, is_exact, likeness, token_measures

CONTEXT = 24
"""Tokens shown before a disputed one, and after it."""
MOST_DISPUTES = 5
"""Disputed tokens shown per capability."""


@dataclass(frozen=True)
class Dispute:
    """One token of a student's answer, with the text around it and both log-probs in nats."""

    problem: str
    prompt: str
    answer: str
    before: str
    token: str
    after: str
    student_logp: float
    teacher_logp: float

    @property
    def delta(self) -> float:
        """log pi_teacher - log pi_student. Below 0, the token is less likely for the teacher than for the student."""
        return self.teacher_logp - self.student_logp


@dataclass(frozen=True)
class CapabilityBehaviour:
    """A teacher's view of a student's responses to validation problems. `accuracy` is the student's."""

    capability: str
    tokens: int
    accuracy: float
    chance: dict[int, float]
    likeness: Likeness
    kl_is_exact: bool
    disputes: list[Dispute]


async def observe(
    student: Observed, teacher: Observed, task: str, *, problems: int, ks: Sequence[int]
) -> CapabilityBehaviour:
    """All measures of two models: the student answers validation problems of a task, the teacher scores its tokens."""
    scored = await answer_and_score(
        student.name, {m.name: m for m in (student, teacher)}, task, problems=problems, ks=ks
    )
    return CapabilityBehaviour(
        task,
        int(scored.rollouts.mask_NT.sum()),
        scored.accuracy,
        {k: k / student.allowed_tokens for k in ks},
        likeness([token_measures(scored, teacher.name, ks, exact=is_exact(student.allowed_tokens))]),
        is_exact(student.allowed_tokens),
        await disputes(student, scored, teacher.name, MOST_DISPUTES),
    )


async def disputes(student: Observed, scored: Scored, teacher: str, count: int) -> list[Dispute]:
    """The tokens with the largest absolute log-prob difference, largest first; at most one of each response.

    Empty if the two agree to the last bit.
    """
    rollouts = scored.rollouts
    delta_NT = scored.delta_NT(teacher).abs().masked_fill(~rollouts.mask_NT, 0)
    largest_N, at_N = delta_NT.max(-1)
    found = []
    for row in largest_N.argsort(descending=True, stable=True)[:count].tolist():
        t, problem = int(at_N[row]), rollouts.problems[int(rollouts.prompt_of_N[row])]
        if not delta_NT[row, t] > 0:
            break
        pieces = await student.pieces(rollouts, row)
        own, theirs = (float(score.logp_NT[row, t]) for score in (scored.own, scored.theirs[teacher]))
        before, after = "".join(pieces[max(0, t - CONTEXT) : t]), "".join(pieces[t + 1 : t + 1 + CONTEXT])
        found.append(Dispute(problem.id, problem.prompt, problem.answer, before, pieces[t], after, own, theirs))
    return found
