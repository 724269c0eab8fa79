"""README's table and picture of results, from the committed outcomes of the study (`make docs`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from results_claims import CO_EVOLVING, ONE_CYCLE, PAPER, REFERENCE, TAUGHT_ONCE, bold_if_clear, co_evolution, elsewhere
from results_page import MAIN, ROOT, WORLDS, Study
from results_words import gain, markdown, share

from copd.arms.outcomes import Outcome
from copd.arms.summary import Contrast
from copd.maths.intervals import stratified_mean, wilson
from copd.maths.seeds import t_interval
from copd.measure.evaluate import AVERAGE, Estimate, columns_of
from copd.report.figures import plain_axes
from copd.types import BASE

README, PICTURE = ROOT / "README.md", ROOT / "docs" / "results.svg"
LEAD = ("<!-- Lead: written by `make docs`. -->\n", "<!-- End of lead. -->\n")
RESULTS = ("<!-- Results: written by `make docs`. -->\n", "<!-- End of results. -->\n")
LABELS = {
    "expert": "experts: one model for each capability",
    "one_cycle": "experts teach one student",
    "replay": "experts teach one student, first on their RLVR rollouts",
    "cycles": "branches teach one student, learn on from it, teach again",
    "copd_dense": "the paper's CoPD with a dense signal",
    "copd_paper": "the paper's CoPD",
    "soft_kd": "one student learns on the experts' answers",
    "mopd_base": "multi-teacher OPD of the base, dense signal",
    "mopd_sampled": "multi-teacher OPD of the experts' mean, sampled signal",
    "mixed": "mixed RLVR",
    "average": "mean of the experts' weights",
    "ties": "experts, merged by TIES",
    "sum": "experts, task vectors added",
}
"""What README calls each arm."""


def base_accuracy(main: Study) -> dict[str, Estimate]:
    """The base's accuracy in each capability: the problems are the same for all seeds."""
    outcome = next(o for o in main.outcomes if BASE in o.right)
    values = {name: float(outcome.greedy_P(BASE, name).mean()) for name in outcome.problems}
    values[AVERAGE] = sum(values.values()) / len(values)
    return {name: Estimate(value, value, value) for name, value in values.items()}


def lead(main: Study, worlds: Sequence[Study] = ()) -> str:
    """What leads and how the paper's form does against mixed RLVR, as far as their runs have ended; bold if clear."""
    against = {c.arm: c for c in main.found.get(REFERENCE, []) if c.capability == AVERAGE}
    told = {
        ONE_CYCLE: "experts that teach one student at the end",
        "copd_dense": "mutual OPD with a dense signal",
        PAPER: "mutual OPD as in the paper, not tuned",
    }
    said = [f"{what} {lead_of(against[arm])}" for arm, what in told.items() if arm in against]
    if not said:
        return "No seed of the study has run yet."
    where = f"on a toy world, at {main.comparison.rollouts:,} rollouts each, in points of accuracy against mixed RLVR"
    beside = f" {more}" if (more := elsewhere(worlds)) else ""
    return f"**Measured** {where}: {'; '.join(said)} ([results](#results)).{beside}"


def section(main: Study) -> str:
    """Accuracies and differences of all methods, best average first, and what co-evolution adds.

    Intervals are over seeds; where there is one seed, over problems. A difference that is clear by Holm's correction
    is bold.
    """
    columns = columns_of(list(main.outcomes[0].problems))
    against = [name for name in (REFERENCE, ONE_CYCLE) if name in main.found]
    leads = {(c.arm, name): c for name in against for c in main.found[name] if c.capability == AVERAGE}
    lines = []
    for arm in by_average(main):
        own = [o for o in main.outcomes if o.arm == arm]
        found = main.rows[arm].accuracy if len(own) > 1 else over_problems(own[0])
        cells = (share(found[name], 2) for name in columns)
        lines.append(
            (f"{LABELS[arm]} (`{arm}`)", *cells, *(lead_of(leads.get((arm, n))) for n in against), f"{len(own)}")
        )
    base = (share(each, 1) for each in base_accuracy(main).values())
    lines.append(("the base", *base, *("" for _ in against), ""))
    header = ("method", *columns, *(f"against `{name}`" for name in against), "seeds")
    return "\n\n".join([markdown(header, lines), *filter(None, [" ".join(co_evolution(main))])]) + "\n"


def by_average(main: Study) -> list[str]:
    """The arms that have begun, best average first."""
    begun = [arm for arm in LABELS if arm in main.rows]
    return sorted(begun, key=lambda arm: -main.rows[arm].accuracy[AVERAGE].value)


def over_problems(outcome: Outcome) -> dict[str, Estimate]:
    """The accuracies of one run with intervals over its problems."""
    right = {name: outcome.product_P(name) for name in outcome.problems}
    found = {name: Estimate(float(r_P.mean()), *wilson(float(r_P.sum()), len(r_P))) for name, r_P in right.items()}
    return {**found, AVERAGE: Estimate(*stratified_mean(list(right.values())))}


def lead_of(contrast: Contrast | None) -> str:
    """Points more than the reference; empty for the reference itself."""
    if contrast is None:
        return ""
    found = contrast.over_seeds
    said = gain(found if contrast.seeds > 1 else Estimate(found.value, *contrast.over_problems), 2)
    return bold_if_clear(said, contrast)


def picture(main: Study, out: Path) -> None:
    """Each arm's average with its interval over seeds and a dot for each seed; the base is a line."""
    rows = [(arm, LABELS[arm]) for arm in by_average(main)]
    figure = Figure(figsize=(9, 0.36 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    base = 100 * base_accuracy(main)[AVERAGE].value
    axes.axvline(base, color="0.6", linestyle=":", linewidth=1)
    axes.annotate("base", (base, -0.7), ha="center", fontsize="small", color="0.4", annotation_clip=False)
    for place, (arm, _) in enumerate(rows):
        values = [100 * o.accuracy(AVERAGE) for o in main.outcomes if o.arm == arm]
        mean, low, high = t_interval(values)
        color = "tab:blue" if arm in CO_EVOLVING else "tab:orange" if arm in TAUGHT_ONCE else "0.35"
        axes.plot(values, [place] * len(values), ".", color=color, alpha=0.35, markersize=5)
        if len(values) > 1:
            axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot([mean], [place], "o", color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [label for _, label in rows])
    axes.invert_yaxis()
    plain_axes(axes, "greedy accuracy on test problems, %, average of three capabilities")
    with matplotlib.rc_context({"svg.hashsalt": out.stem}):  # the same picture is the same file
        figure.savefig(out, facecolor="white", metadata={"Date": None})


def with_results(readme: str, main: Study, worlds: Sequence[Study] = ()) -> str:
    """README with the present results between its marks."""
    for (begin, end), text in ((LEAD, lead(main, worlds)), (RESULTS, section(main))):
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return readme


if __name__ == "__main__":
    worlds = [Study(file) for file in WORLDS]
    README.write_text(with_results(README.read_text("utf-8"), Study(MAIN), worlds), "utf-8")
    picture(Study(MAIN), PICTURE)
