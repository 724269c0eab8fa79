"""README's table and picture of results, from the committed outcomes of the study (`make docs`)."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from results_page import MAIN, REFERENCE, ROOT, Study, gain, markdown, share

from copd.arms.outcomes import Outcome
from copd.arms.summary import Contrast
from copd.maths.intervals import stratified_mean, wilson
from copd.maths.seeds import t_interval
from copd.measure.evaluate import AVERAGE, Estimate, columns_of
from copd.report.figures import plain_axes
from copd.report.words import counted
from copd.types import BASE

README, PICTURE = ROOT / "README.md", ROOT / "docs" / "results.svg"
BEGIN, END = "<!-- Results: written by `make docs`. -->\n", "<!-- End of results. -->\n"
LABELS = {
    "expert": "experts, each in its own capability",
    "one_cycle": "CoPD, one cycle: the experts teach one student",
    "replay": "the same, first on what the experts sampled",
    "cycles": "CoPD, two cycles, the second from the student",
    "copd_dense": "CoPD as in the paper, with a dense signal",
    "copd_paper": "CoPD as in the paper",
    "soft_kd": "soft distillation on the experts' answers",
    "mopd_base": "multi-teacher OPD from the base, dense signal",
    "mopd_sampled": "multi-teacher OPD from the experts' mean",
    "mixed": "mixed RLVR",
    "average": "experts, averaged",
    "ties": "experts, merged by TIES",
    "sum": "experts, task vectors added",
}
"""The arms in README's order and words."""


def base_accuracy(main: Study) -> dict[str, Estimate]:
    """The base's accuracy in each capability: the problems are the same for all seeds."""
    outcome = next(o for o in main.outcomes if BASE in o.right)
    values = {name: float(outcome.greedy_P(BASE, name).mean()) for name in outcome.problems}
    values[AVERAGE] = sum(values.values()) / len(values)
    return {name: Estimate(value, value, value) for name, value in values.items()}


def section(main: Study) -> str:
    """The verdict, and accuracies and differences of all arms, as far as their runs have ended.

    Intervals are over seeds; where there is one seed, over problems.
    """
    columns = columns_of(list(main.outcomes[0].problems))
    leads = {c.arm: c for c in main.found[REFERENCE] if c.capability == AVERAGE}
    lines = [("base", *(share(each, 1) for each in base_accuracy(main).values()), "", "")]
    for arm, label in LABELS.items():
        if (row := main.rows.get(arm)) is None:
            continue
        own = [o for o in main.outcomes if o.arm == arm]
        found = row.accuracy if len(own) > 1 else over_problems(own[0])
        cells = (share(found[name], 2) for name in columns)
        lines.append((f"{label} (`{arm}`)", *cells, lead_of(leads.get(arm)), counted(len(own), "seed")))
    header = ("way to one model", *columns, f"more than `{REFERENCE}`", "of")
    return f"{main.verdict()}\n\n{markdown(header, lines)}\n"


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
    return gain(found if contrast.seeds > 1 else Estimate(found.value, *contrast.over_problems), 2)


def picture(main: Study, out: Path) -> None:
    """Each arm's average with its interval over seeds and a dot for each seed; the base is a line."""
    rows = [(arm, label) for arm, label in LABELS.items() if arm in main.rows]
    figure = Figure(figsize=(9, 0.36 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    base = 100 * base_accuracy(main)[AVERAGE].value
    axes.axvline(base, color="0.6", linestyle=":", linewidth=1)
    axes.annotate("base", (base, -0.7), ha="center", fontsize="small", color="0.4", annotation_clip=False)
    for place, (arm, _) in enumerate(rows):
        values = [100 * o.accuracy(AVERAGE) for o in main.outcomes if o.arm == arm]
        mean, low, high = t_interval(values)
        color = "tab:blue" if "copd" in arm or arm in ("one_cycle", "replay", "cycles") else "0.35"
        axes.plot(values, [place] * len(values), ".", color=color, alpha=0.35, markersize=5)
        if len(values) > 1:
            axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot([mean], [place], "o", color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [label for _, label in rows])
    axes.invert_yaxis()
    plain_axes(axes, "greedy accuracy on test problems, %, average of three capabilities")
    with matplotlib.rc_context({"svg.hashsalt": out.stem}):  # the same picture is the same file
        figure.savefig(out, facecolor="white", metadata={"Date": None})


def with_results(readme: str, main: Study) -> str:
    """README with the present results between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{section(main)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(with_results(README.read_text("utf-8"), Study(MAIN)), "utf-8")
    picture(Study(MAIN), PICTURE)
