"""What the outcomes of a comparison say: accuracy of each arm, and differences to a reference, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from copd.arms.outcomes import Outcome
from copd.maths.seeds import crossed_intervals, holm, seeds_needed, t_interval, t_p_value
from copd.measure.evaluate import AVERAGE, Estimate, columns_of

ONE_POINT = 0.01
Sources = Mapping[str, Sequence[Sequence[str]]]
"""Capability -> the sources of each of its problems."""
Pair = tuple[Outcome, Outcome]
"""Outcomes of an arm and of its reference with the same seed and the same problems."""


@dataclass(frozen=True)
class ArmRow:
    """One arm under one account: capability -> mean greedy accuracy over seeds, with its t interval."""

    arm: str
    seeds: tuple[int, ...]
    models: int
    """How many models it makes: experts are one for each capability."""
    rollouts: float
    accuracy: dict[str, Estimate]
    pass_at: dict[str, Estimate]
    """k -> pass@k on average over capabilities."""
    spent: dict[str, float]
    regret: dict[str, Estimate]
    """Capability -> accuracy less that of the capability's own expert with the same seed; empty without experts.

    The t interval is over the seeds in which both answered the same problems; of one such seed, it is over problems.
    """
    regret_seeds: int
    """How many such seeds there are."""


@dataclass(frozen=True)
class Contrast:
    """An arm less the reference in one capability, over the seeds that both have.

    over_seeds     mean and t interval: another seed, the same problems
    over_problems  interval over other seeds and problems, in clusters of what they share; of one seed, over problems
    p, holm        of the mean being 0; by Holm's correction over all arms in this capability
    wins           share of seeds in which the arm is better; a tie is half a win
    seeds_needed   seeds for an interval of a point to each side; None where it cannot be told
    """

    arm: str
    reference: str
    capability: str
    seeds: int
    over_seeds: Estimate
    over_problems: tuple[float, float]
    p: float
    holm: float
    wins: float
    seeds_needed: int | None


def arm_rows(outcomes: Sequence[Outcome], sources: Sources) -> list[ArmRow]:
    """A row for each arm, in the order in which the arms come. Of several arms of experts, the first is regretted."""
    arms: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        arms.setdefault(outcome.arm, []).append(outcome)
    of_experts = next((own for own in arms.values() if len(own[0].products) > 1), [])
    experts = {o.seed: o for o in of_experts}
    return [_row(arm, own, _pairs(own, experts), sources) for arm, own in arms.items()]


def _row(arm: str, own: Sequence[Outcome], pairs: Sequence[Pair], sources: Sources) -> ArmRow:
    columns = columns_of(list(own[0].problems))
    ks = next(iter(next(iter(own[0].sampled.values())).values()))
    return ArmRow(
        arm,
        tuple(o.seed for o in own),
        len(own[0].products),
        sum(o.rollouts for o in own) / len(own),
        {name: Estimate(*t_interval([o.accuracy(name) for o in own])) for name in columns},
        {k: Estimate(*t_interval([_sampled(o, k) for o in own])) for k in ks},
        {name: sum(o.spent[name] for o in own) / len(own) for name in own[0].spent},
        {name: _regret(pairs, name, sources) for name in (columns if pairs else [])},
        len(pairs),
    )


def _regret(pairs: Sequence[Pair], capability: str, sources: Sources) -> Estimate:
    """How much more accurate an arm is than the experts: over seeds, or over problems where there is one seed."""
    if len(pairs) > 1:
        return Estimate(*t_interval([_more(*pair, capability) for pair in pairs]))
    (over_problems,) = _over_problems([pairs], capability, sources)
    return Estimate(_more(*pairs[0], capability), *over_problems)


def _sampled(outcome: Outcome, k: str) -> float:
    values = [outcome.sampled[outcome.model_for(name)][name][k] for name in outcome.problems]
    return sum(values) / len(values)


def contrasts(outcomes: Sequence[Outcome], reference: str, sources: Sources) -> list[Contrast]:
    """Every other arm against the reference, in every capability and on average, seed by seed.

    Only outcomes of the same problems are compared. Holm's correction is over the arms, within a capability.
    """
    base = {o.seed: o for o in outcomes if o.arm == reference}
    arms = [arm for arm in dict.fromkeys(o.arm for o in outcomes) if arm != reference]
    pairs = {arm: _pairs([o for o in outcomes if o.arm == arm], base) for arm in arms}
    arms = [arm for arm in arms if pairs[arm]]
    if not arms:
        return []
    found = []
    for capability in columns_of(list(next(iter(base.values())).problems)):
        values = {arm: [_more(a, b, capability) for a, b in pairs[arm]] for arm in arms}
        p_M = [t_p_value(values[arm]) for arm in arms]
        over_M = _over_problems([pairs[arm] for arm in arms], capability, sources)
        for arm, p, adjusted, over_problems in zip(arms, p_M, holm(p_M), over_M, strict=True):
            own = values[arm]
            found.append(
                Contrast(
                    arm,
                    reference,
                    capability,
                    len(own),
                    Estimate(*t_interval(own)),
                    over_problems,
                    p,
                    adjusted,
                    sum((value > 0) + (value == 0) / 2 for value in own) / len(own),
                    seeds_needed(own, ONE_POINT),
                )
            )
    return found


def _more(one: Outcome, other: Outcome, capability: str) -> float:
    """How much more accurate one is; 0 of equal ones, whose averages may differ by rounding."""
    return round(one.accuracy(capability) - other.accuracy(capability), 12)


def _pairs(own: Sequence[Outcome], base: Mapping[int, Outcome]) -> list[Pair]:
    return [(o, base[o.seed]) for o in own if o.seed in base and o.problems == base[o.seed].problems]


def _over_problems(pairs_M: Sequence[Sequence[Pair]], capability: str, sources: Sources) -> list[tuple[float, float]]:
    """For each arm's pairs; on average over capabilities, each capability counts alike."""
    problems = pairs_M[0][0][0].problems
    names = list(problems) if capability == AVERAGE else [capability]
    shared = [each for name in names for each in sources.get(name) or [()] * problems[name][1]]
    return crossed_intervals(
        [torch.cat([_weighed(pairs, name, names) for name in names], dim=1) for pairs in pairs_M], shared
    )


def _weighed(pairs: Sequence[Pair], name: str, names: Sequence[str]) -> Tensor:
    """[S, P] differences in a capability, scaled so that the mean over all problems counts each capability alike."""
    difference_SP = torch.stack([a.product_P(name) - b.product_P(name) for a, b in pairs])
    total = sum(pairs[0][0].problems[each][1] for each in names)
    return difference_SP * total / (len(names) * difference_SP.shape[1])
