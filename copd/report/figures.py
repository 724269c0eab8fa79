"""Curves of a run, drawn by matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from copd.measure.evaluate import AVERAGE
from copd.report.svg import QUIET, SHADE, series, to_svg
from copd.types import MERGED

Record = Mapping[str, Any]
Draw = Callable[[Any, Sequence[Record]], bool]
"""Draws onto the axes of a figure. It makes them only where it has something to draw: axes cost more than a curve."""

SIZE = (4.9, 3.3)
"""Inches. At this width the type is as large as the page's small print."""
TYPE = 10
LEGEND_LINE, ROOMY = 0.21, 2
"""Inches that a line of the legend takes, and so many lines that the usual height has room for."""
SMOOTHED = 5
"""Steps over which noisy values are averaged."""
ROUNDING = 1e-12
"""Below it a value is 0, with the rounding of matplotlib's transforms: a level line at 0 comes out as 1e-17."""


def draw_overlap(figure: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw the overlap at the largest k; False where fewer than two branches are recorded."""
    points = events(records, "behaviour")
    k = max(points[0]["overlap"], key=int) if points else ""
    return _draw_pairs(figure, [(point["step"], point["overlap"][k]) for point in points], label, style)


def draw_divergence(figure: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw the symmetric KL in nats per token; False where fewer than two branches are recorded."""
    points = events(records, "behaviour")
    return _draw_pairs(figure, [(point["step"], point["symmetric_kl"]) for point in points], label, style)


def _draw_pairs(figure: Any, points: Sequence[tuple[int, Mapping[str, Any]]], label: str, style: str) -> bool:
    """A line for each two branches, both directions averaged."""
    if not points or len(points[0][1]) < 2:
        return False
    for number, (student, teacher) in enumerate(combinations(points[0][1], 2)):
        ways = [(matrix[student][teacher], matrix[teacher][student]) for _, matrix in points]
        both = [float("nan") if None in two else sum(two) / 2 for two in ways]
        name = f"{label}{student}, {teacher}"
        figure.gca().plot([step + 1 for step, _ in points], both, ls=style, ms=4, label=name, **series(number))
    return True


def draw_accuracy(figure: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw greedy validation accuracy: own capability as given, average over all dotted; False without records.

    A branch without a capability of its own has a line for every capability. The base, which every branch is before
    the first step, is a thin level line in the colour of each capability; on average a grey one.
    """
    points, number = events(records, "accuracy"), 0
    if not points:
        return False
    axes = figure.gca()
    base = {branch: _cells(p, branch) for p in points if p["step"] < 0 for branch in branches_of(records)}
    for branch in branches_of(records):
        steps, cells = [p["step"] + 1 for p in points], [_cells(p, branch) for p in points]
        capabilities = {branch: "own capability"} if branch in cells[0] else {f: f for f in cells[0] if f != AVERAGE}
        for capability, name in capabilities.items():
            own = [cell[capability] for cell in cells]
            axes.plot(steps, own, ls=style, ms=4, label=f"{label}{branch}, {name}", **series(number))
            if branch in base:
                axes.axhline(base[branch][capability], color=series(number)["color"], lw=0.7, alpha=0.6)
            number += 1
        average = [cell[AVERAGE] for cell in cells]
        colours = series(number - 1 if branch in capabilities else number)
        axes.plot(steps, average, ls=":", ms=3, label=f"{label}{branch}, average", **colours)
    if base:
        axes.axhline(next(iter(base.values()))[AVERAGE], color=QUIET, ls="-.", lw=1, label=f"{label}base, average")
    return True


def draw_merge(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the merge's greedy validation accuracy in every capability, its average dotted; False if not measured.

    The base is a thin level line in the colour of each capability, as in `draw_accuracy`.
    """
    measured = events(records, "accuracy")
    branches = branches_of(records)
    base = next((_cells(point, branches[0]) for point in measured if branches and point["step"] < 0), {})
    found = [(point["step"] + 1, _cells(point, MERGED)) for point in measured]
    points = [(step, cells) for step, cells in found if cells]
    if not points or MERGED in branches:
        return False
    axes = figure.gca()
    for number, name in enumerate(points[0][1]):
        style = ":" if name == AVERAGE else "-"
        values = [cells[name] for _, cells in points]
        axes.plot([step for step, _ in points], values, ls=style, ms=4, label=name, **series(number))
        if name in base:
            axes.axhline(base[name], color=series(number)["color"], lw=0.7, alpha=0.6)
    return True


def draw_reward(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the reward of native rollouts, a mean over five steps; False where there were none."""
    return _draw_updates(figure, records, lambda update: {update["branch"]: update.get("native/reward")})


def draw_signal(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the share of prompts whose responses differ in reward, a mean over five steps; False without records."""
    return _draw_updates(figure, records, lambda update: {update["branch"]: update.get("native/groups_with_signal")})


def draw_lessons(figure: Any, records: Sequence[Record]) -> bool:
    """Draw the mean absolute delta of each edge, step by step; False where nobody is taught."""
    suffix = "/delta_abs"
    return _draw_updates(
        figure,
        records,
        lambda update: {
            f"{name.removeprefix('from_').removesuffix(suffix)} to {update['branch']}": value
            for name, value in update.items()
            if name.endswith(suffix)
        },
    )


def draw_diagnostic(figure: Any, records: Sequence[Record], name: str) -> bool:
    """Draw a value of every update of each branch, a mean over five steps; False without records."""
    return _draw_updates(figure, records, lambda update: {update["branch"]: of_update(update, name)})


def of_update(update: Record, name: str) -> float | None:
    """A value of an update: its own, else that of its native part, else the mean over its lessons."""
    if (own := update.get(name, update.get(f"native/{name}"))) is not None:
        return own
    lessons = [update[key] for key in update if key.startswith("from_") and key.endswith(f"/{name}")]
    found = [value for value in lessons if value is not None]
    return sum(found) / len(found) if found else None


def _draw_updates(figure: Any, records: Sequence[Record], values: Callable[[Record], dict[str, float | None]]) -> bool:
    """A line per name in `values`, a mean over `SMOOTHED` updates, with a gap where steps are missing."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for update in events(records, "update"):
        for name, value in values(update).items():
            if value is not None:
                curves.setdefault(name, []).append((update["step"] + 1, value))
    for number, (name, points) in enumerate(curves.items()):
        steps, smooth = _smoothed(points)
        figure.gca().plot(steps, smooth, label=name, ms=4, markevery=max(1, len(steps) // 6), lw=1.2, **series(number))
    return bool(curves)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    steps: list[int] = []
    means: list[float] = []
    run: list[float] = []
    for step, value in points:
        if steps and step > steps[-1] + 1:
            steps, means, run = [*steps, step - 1], [*means, float("nan")], []
        run = [*run, value][-SMOOTHED:]
        steps.append(step)
        means.append(sum(run) / len(run))
    return steps, means


def shade_rlvr(axes: Any, records: Sequence[Record]) -> None:
    """Shade RLVR phases, each from the end of the phase before, if there are other phases too."""
    if {point["phase"] for point in events(records, "behaviour")} <= {"start", "rlvr"}:
        return
    for before, after in pairwise(events(records, "behaviour")):
        if after["phase"] == "rlvr":
            axes.axvspan(before["step"] + 1, after["step"] + 1, color=SHADE, alpha=0.2, lw=0)


def plain_axes(axes: Any, unit: str = "step") -> None:
    """Label the axis below and remove the box."""
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)


def figure_of(draw: Draw, records: Sequence[Record], title: str) -> Markup | None:
    """One drawing as an SVG element named `title`, phases shaded; None where there is nothing to draw."""
    figure = Figure(figsize=SIZE, layout="constrained")
    if not draw(figure, records):
        return None
    axes = figure.gca()
    shade_rlvr(axes, records)
    return finished_figure(figure, axes, title)


def finished_figure(figure: Figure, axes: Any, title: str, unit: str = "step") -> Markup:
    """The figure in the page's type and colours, its legend above it; the heading stands in the page."""
    axes.set_title("", loc="left")
    plain_axes(axes, unit)
    axes.grid(axis="y", color=SHADE, alpha=0.35, lw=0.6)
    axes.tick_params(colors=QUIET, labelcolor="black", labelsize=TYPE)
    for spine in axes.spines.values():
        spine.set_color(QUIET)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    if max(abs(axes.dataLim.y0), abs(axes.dataLim.y1)) < ROUNDING:
        axes.set_yticks([0])
    axes.xaxis.label.set_size(TYPE)
    names = axes.get_legend_handles_labels()[1]
    columns = 3 if max(map(len, names)) < 14 else 2
    lines = -(-len(names) // columns)
    figure.set_figheight(SIZE[1] + LEGEND_LINE * max(0, lines - ROOMY))
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=TYPE, handlelength=2.4)
    return to_svg(figure, title)


def events(records: Sequence[Record], name: str) -> list[Record]:
    """The records of one kind."""
    return [record for record in records if record["event"] == name]


def branches_of(records: Sequence[Record]) -> list[str]:
    """The branches of a run that has been measured. A merge that is computed from their weights is none."""
    return [branch for point in events(records, "behaviour")[:1] for branch in point["accuracy"]]


def _cells(record: Record, branch: str) -> dict[str, float]:
    return {cell["capability"]: cell["greedy"]["value"] for cell in record["table"] if cell["model"] == branch}
