"""What the study says about co-evolution and about the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from results_words import gain, markdown

from copd.arms.page import CLEAR
from copd.arms.summary import Contrast
from copd.maths.seeds import t_interval
from copd.measure.evaluate import AVERAGE, Estimate
from copd.report.words import counted, listed

if TYPE_CHECKING:
    from results_page import Study

REFERENCE, ONE_CYCLE, PAPER, EXPERT = "mixed", "one_cycle", "copd_paper", "expert"
CO_EVOLVING = ("cycles", "copd_dense", PAPER)
"""Arms whose branches learn on from what was taught."""
TAUGHT_ONCE = (ONE_CYCLE, "replay", "soft_kd", "mopd_base", "mopd_sampled")
"""Arms whose student experts teach at the end."""


def co_evolution(main: Study) -> list[str]:
    """Whether the best arm whose branches learn on from what was taught is ahead of experts that teach once."""
    found = [c for c in main.found.get(ONE_CYCLE, []) if c.capability == AVERAGE and c.arm in CO_EVOLVING]
    if not found or max(c.seeds for c in found) < 2:
        return []
    best = max(found, key=lambda c: c.over_seeds.value)
    e, stands = best.over_seeds, f"`{best.arm}`, the best method whose branches learn on from what they are taught, is"
    low, high = sorted(100 * abs(bound) for bound in (e.low, e.high))
    by = f"{100 * abs(e.value):.1f} points {'above' if e.value > 0 else 'below'} `{ONE_CYCLE}`"
    if best.holm >= CLEAR:
        return [f"Whether co-evolution pays at {main.comparison.title} is open: {stands} {by} ({gain(e, best.seeds)})."]
    does = "pays" if e.value > 0 else "does not pay"
    because = weaker(main, best.arm) if e.value < 0 else ""
    said = f"Co-evolution {does} at {main.comparison.title}: {stands} {by} [{low:.1f}, {high:.1f}]."
    return [said, *([f"One likely reason is weaker teachers: {because}."] if because else [])]


def elsewhere(worlds: Sequence[Study]) -> str:
    """Arms against mixed RLVR in each other world where both have run; empty if there is none.

    Told are one cycle, the best co-evolving arm, and each other arm that is clear by Holm's correction.
    """
    said = []
    for world in worlds:
        found = [c for c in world.found.get(REFERENCE, []) if c.capability == AVERAGE and world.rows[c.arm].models == 1]
        evolving = sorted((c for c in found if c.arm in CO_EVOLVING), key=lambda c: -c.over_seeds.value)[:1]
        told = [c for c in found if c.arm == ONE_CYCLE or c in evolving or c.holm < CLEAR]
        if told:
            seeds = counted(min(c.seeds for c in told), "seed")
            said.append(f"at {world.comparison.title} ({seeds}), {listed(f'`{c.arm}` {gained(c)}' for c in told)}")
    told = f"In other worlds, in points against `{REFERENCE}`, bold where clear by Holm's correction"
    return f"{told}: {'; '.join(said)}." if said else ""


def gained(contrast: Contrast) -> str:
    """Points more than the reference, bold if that is clear by Holm's correction over the arms."""
    return bold_if_clear(gain(contrast.over_seeds, contrast.seeds), contrast)


def bold_if_clear(said: str, contrast: Contrast) -> str:
    """A text about a difference, bold if that is clear by Holm's correction."""
    return f"**{said}**" if contrast.holm < CLEAR else said


def weaker(main: Study, arm: str) -> str:
    """How much weaker an arm's branches are at the end than those of one cycle; empty if that is not clear."""
    own, other = known_at_the_end(main, arm), known_at_the_end(main, ONE_CYCLE)
    both = own.keys() & other.keys()
    less = Estimate(*t_interval([own[seed] - other[seed] for seed in both])) if len(both) > 1 else None
    if less is None or less.high >= 0:
        return ""
    return (
        f"at the end the branches of `{arm}` answer {100 * fmean(own[s] for s in both):.1f} % of the validation "
        f"problems of their own capability, those of `{ONE_CYCLE}` {100 * fmean(other[s] for s in both):.1f} % "
        f"(seed by seed {gain(less, len(both))})"
    )


def known_at_the_end(main: Study, arm: str) -> dict[int, float]:
    """Seed -> validation accuracy of the branches at the end, each in its own capability, where it was measured."""
    ends = {o.seed: o.curve[-1][1] for o in main.outcomes if o.arm == arm and o.curve}
    names = [f"{name}/{name}" for name in main.outcomes[0].problems]
    return {seed: fmean(end[n] for n in names) for seed, end in ends.items() if all(n in end for n in names)}


def claims(main: Study) -> str:
    """The paper's claims, and what came out; empty until the arms that they take are there."""
    rows = main.rows
    if not {PAPER, ONE_CYCLE, EXPERT, REFERENCE} <= rows.keys():
        return ""
    lost = "the mean of the weights loses what the branches know: each answers {:.1f} % of the validation problems "
    lost += "of its own capability, the mean {:.1f} % of all test problems"
    known, kept = known_at_the_end(main, PAPER), rows[PAPER].accuracy[AVERAGE].value
    kept_less = bool(known) and fmean(known.values()) > kept
    reasons = {
        REFERENCE: lost.format(100 * fmean(known.values()), 100 * kept) if kept_less else "",
        ONE_CYCLE: weaker(main, PAPER),
    }
    lines = []
    for reference, words in ((REFERENCE, "mixed RLVR"), (ONE_CYCLE, "experts that teach one student once")):
        here, holds = judged(main, reference)
        lines.append((f"CoPD is ahead of {words}", here, holds, reasons[reference] if holds == "no" else ""))
    best = max((row for row in rows.values() if row.models == 1), key=lambda row: row.accuracy[AVERAGE].value)
    regret = {name: best.regret[name] for name in main.outcomes[0].problems if name in best.regret}
    beyond = ", ".join(f"{name} {gain(each, best.regret_seeds)}" for name, each in regret.items())
    several = best.regret_seeds > 1
    below = several and any(each.high < 0 for each in regret.values())
    holds = "no" if below else "yes" if several and all(each.low > 0 for each in regret.values()) else "open"
    only = "experts alone teach its student: nothing leads beyond them" if below and best.arm in TAUGHT_ONCE else ""
    lines.append(("One model surpasses each expert in its own capability", f"`{best.arm}`: {beyond}", holds, only))
    return markdown(("claim", "here", "holds", "most likely reason, if not"), lines)


def judged(main: Study, reference: str) -> tuple[str, str]:
    """The paper's form against a reference, and whether it is clearly ahead."""
    found = [c for c in main.found.get(reference, []) if (c.arm, c.capability) == (PAPER, AVERAGE)]
    if not found:
        return "–", "open"
    e, clear = found[0].over_seeds, found[0].holm < CLEAR
    holds = "open" if not clear else "yes" if e.value > 0 else "no"
    return f"`{PAPER}`: {gain(e, found[0].seeds)} against `{reference}`", holds
