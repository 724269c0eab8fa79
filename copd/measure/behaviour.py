"""How alike the branches behave, on the student's own rollouts (method.md section 2)."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from copd.handles import Observed
from copd.maths.distill import WHOLE_VOCABULARY, mass_overlap, symmetric_kl, top_k_overlap, with_tail
from copd.measure.evaluate import right_answers, share_out
from copd.types import Problem, Rollouts, Score, Split

LIKELIEST = 64
SAMPLED_TOKENS = 512
"""Most tokens of a sample that are kept with their log-probs. The rest of a longer response is kept as text only."""
DECIMALS = 4
"""Decimals of the log-probs of a sample, in nats."""

Matrix = dict[str, dict[str, float]]
"""A value by student, then by teacher."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A student's sampled responses to the problems of a task, with its own score and every teacher's by name."""

    task: str
    rollouts: Rollouts
    own: Score
    theirs: Mapping[str, Score]

    @property
    def accuracy(self) -> float:
        assert self.rollouts.correct_N is not None
        return float(self.rollouts.correct_N.float().mean())

    @property
    def truncated_rate(self) -> float:
        return 1 - float(self.rollouts.finished_N.float().mean())

    def delta_NT(self, teacher: str) -> Tensor:
        """log pi_teacher - log pi_student of every token, unbounded; 0 on padding (method.md eq. 3)."""
        return self.theirs[teacher].logp_NT - self.own.logp_NT


@dataclass(frozen=True)
class Likeness:
    """Likeness of a student and a teacher on the student's tokens. The mass-weighted overlap is at the smallest k."""

    overlap: dict[int, float]
    mass_overlap: float
    symmetric_kl: float


@dataclass
class Behaviour:
    """K x K measures by student and teacher, and each branch's accuracy on each capability, from sampled responses.

    `truncated_rate` is the share of these responses that were truncated, by branch and capability. `samples` holds one
    response per branch and capability, token by token. `shown` gives its problem by capability and id. `right` has the
    share of right responses to each problem, [P], by branch and capability.
    """

    overlap: dict[int, Matrix] = field(default_factory=dict)
    chance: dict[int, float] = field(default_factory=dict)
    mass_overlap: Matrix = field(default_factory=dict)
    symmetric_kl: Matrix = field(default_factory=dict)
    kl_is_exact: bool = True
    accuracy: Matrix = field(default_factory=dict)
    truncated_rate: Matrix = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[tuple[str, str], Problem] = field(default_factory=dict, compare=False)
    right: dict[tuple[str, str], Tensor] = field(default_factory=dict, compare=False)


async def measure_behaviour(
    branches: Mapping[str, Observed],
    capabilities: Sequence[str],
    *,
    problems: int,
    ks: Sequence[int],
    done: Callable[[], None] = lambda: None,
) -> Behaviour:
    """Each branch answers the same validation problems of every capability; every other branch scores its tokens.

    The ledger counts none of this. The mass-weighted overlap is at the smallest k. `done` is called after each
    capability of each branch.
    """
    tokens = next(iter(branches.values())).allowed_tokens
    found = Behaviour(kl_is_exact=is_exact(tokens), chance={k: k / tokens for k in ks})
    of_all = (_observed(name, branches, capabilities, problems=problems, ks=ks, done=done) for name in branches)
    for one in await gather(*of_all):
        for matrix in ("accuracy", "truncated_rate", "mass_overlap", "symmetric_kl"):
            getattr(found, matrix).update(getattr(one, matrix))
        for k, rows in one.overlap.items():
            found.overlap.setdefault(k, {}).update(rows)
        found.samples += one.samples
        found.shown |= one.shown
        found.right |= one.right
    return found


async def measure_one_model(branches: Mapping[str, Observed], capabilities: Sequence[str], **asked: Any) -> Behaviour:
    """`measure_behaviour` of branches that are one model, as all are before the first step.

    The branches share the capabilities out. What one finds, alone with itself, holds for every branch and pair.
    """
    shares = share_out(list(branches), capabilities)
    alone = (measure_behaviour({name: branches[name]}, tasks, **asked) for name, tasks in shares.items())
    found = dict(zip(shares, await gather(*alone), strict=True))
    one = next(iter(found))

    def of_pairs(matrix: Matrix) -> Matrix:
        return {name: dict.fromkeys(branches, matrix[one][one]) for name in branches}

    def of_capabilities(matrix: str) -> Matrix:
        row = {task: value for name, own in found.items() for task, value in getattr(own, matrix)[name].items()}
        return {name: {task: row[task] for task in capabilities} for name in branches}

    return Behaviour(
        overlap={k: of_pairs(matrix) for k, matrix in found[one].overlap.items()},
        chance=found[one].chance,
        mass_overlap=of_pairs(found[one].mass_overlap),
        symmetric_kl=of_pairs(found[one].symmetric_kl),
        kl_is_exact=found[one].kl_is_exact,
        accuracy=of_capabilities("accuracy"),
        truncated_rate=of_capabilities("truncated_rate"),
        samples=[sample for own in found.values() for sample in own.samples],
        shown={where: problem for own in found.values() for where, problem in own.shown.items()},
        right={
            (name, task): right for own in found.values() for (_, task), right in own.right.items() for name in branches
        },
    )


async def _observed(
    name: str,
    branches: Mapping[str, Observed],
    capabilities: Sequence[str],
    *,
    problems: int,
    ks: Sequence[int],
    done: Callable[[], None],
) -> Behaviour:
    """One student, capability by capability. Only the measures are kept, since scores may be large."""
    found, exact = Behaviour(), is_exact(branches[name].allowed_tokens)
    accuracy, truncated_rate = found.accuracy.setdefault(name, {}), found.truncated_rate.setdefault(name, {})
    measures: dict[str, list[TokenMeasures]] = {other: [] for other in branches}
    for task in capabilities:
        one = await answer_and_score(name, branches, task, problems=problems, ks=ks)
        problem = one.rollouts.problems[0]
        accuracy[task], truncated_rate[task], found.shown[task, problem.id] = one.accuracy, one.truncated_rate, problem
        found.right[name, task] = right_answers(one.rollouts) / one.rollouts.prompt_of_N.bincount()
        found.samples.append(await _sample(branches[name], one))
        for other, measured in measures.items():
            measured.append(token_measures(one, other, ks, exact=exact))
        done()
    alike = {other: likeness(measured) for other, measured in measures.items()}
    found.overlap = {k: {name: {other: one.overlap[k] for other, one in alike.items()}} for k in ks}
    found.mass_overlap[name] = {other: one.mass_overlap for other, one in alike.items()}
    found.symmetric_kl[name] = {other: one.symmetric_kl for other, one in alike.items()}
    return found


def is_exact(allowed_tokens: int) -> bool:
    """Whether the symmetric KL is taken over the whole vocabulary."""
    return allowed_tokens <= WHOLE_VOCABULARY


async def answer_and_score(
    name: str, models: Mapping[str, Observed], task: str, *, problems: int, ks: Sequence[int]
) -> Scored:
    """The model `name` answers validation problems, twice each. All models, itself included, score its tokens."""
    student = models[name]
    rollouts = await student.answer_first(Split.VALIDATION, task, problems, 2, greedy=False)
    tokens = student.allowed_tokens
    own = await student.inspect(rollouts, tokens if is_exact(tokens) else max(LIKELIEST, *ks))
    others = {other: teacher for other, teacher in models.items() if other != name}
    scores = await gather(*(teacher.inspect(rollouts, max(ks), own.topk_ids_NTK) for teacher in others.values()))
    return Scored(task, rollouts, own, {name: own, **dict(zip(others, scores, strict=True))})


class TokenMeasures(NamedTuple):
    """Overlap by k, mass-weighted overlap at the smallest k and symmetric KL of each of M tokens."""

    overlap: dict[int, Tensor]
    mass_M: Tensor
    kl_M: Tensor


def token_measures(scored: Scored, teacher: str, ks: Sequence[int], *, exact: bool) -> TokenMeasures:
    """The measures of student and teacher on each token of the student's responses."""
    own, theirs, mask_NT = scored.own, scored.theirs[teacher], scored.rollouts.mask_NT

    def tokens(values_NTK: Tensor | None) -> Tensor:
        assert values_NTK is not None
        return values_NTK[mask_NT]

    own_ids, own_logp, ids = tokens(own.topk_ids_NTK), tokens(own.topk_logp_NTK), tokens(theirs.topk_ids_NTK)
    their_logp = own_logp if theirs is own else tokens(theirs.at_ids_NTK)
    k = min(ks)
    mass_M = mass_overlap(own_ids[:, :k], own_logp[:, :k], ids[:, :k])
    if not exact:
        own_logp, their_logp = with_tail(own_logp), with_tail(their_logp)
    overlap = {k: top_k_overlap(own_ids[:, :k], ids[:, :k]) for k in ks}
    return TokenMeasures(overlap, mass_M, symmetric_kl(own_logp, their_logp))


def likeness(measured: Sequence[TokenMeasures]) -> Likeness:
    """Means over the tokens of all given responses of one student. Every token counts alike."""
    overlap = {k: float(torch.cat([one.overlap[k] for one in measured]).mean()) for k in measured[0].overlap}
    mass, kl = (torch.cat(values) for values in ([one.mass_M for one in measured], [one.kl_M for one in measured]))
    return Likeness(overlap, float(mass.mean()), float(kl.mean()))


async def _sample(student: Observed, scored: Scored) -> dict[str, Any]:
    """The first response as text, and token by token with its log-prob and every other branch's difference to it."""
    rollouts = scored.rollouts
    assert rollouts.reward_N is not None
    problem, mask_T = rollouts.problems[0], rollouts.mask_NT[0]

    def kept(values_NT: Tensor) -> list[float]:
        return [round(value, DECIMALS) for value in values_NT[0][mask_T][:SAMPLED_TOKENS].tolist()]

    return {
        "branch": student.name,
        "capability": scored.task,
        "problem": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "response": (await student.texts(rollouts))[0],
        "reward": float(rollouts.reward_N[0]),
        "tokens": (await student.pieces(rollouts, 0))[:SAMPLED_TOKENS],
        "tokens_in_all": int(mask_T.sum()),
        "logp": kept(scored.own.logp_NT),
        "delta": {other: kept(scored.delta_NT(other)) for other in scored.theirs if other != student.name},
    }
