"""Curves of a run as SVG, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

Record = Mapping[str, Any]
RLVR_SHADE = "#8884"


def overlap_figure(records: Sequence[Record]) -> str | None:
    """Top-k overlap (largest k) between each two branches after every phase, RLVR phases shaded. SVG, or None."""
    points = [r for r in records if r["event"] == "behaviour"]
    if not points or len(points[0]["accuracy"]) < 2:
        return None
    k = max(points[0]["overlap"], key=int)
    figure, axes = _axes(f"top-{k} overlap")
    for student in points[0]["overlap"][k]:
        for teacher in points[0]["overlap"][k][student]:
            if student < teacher:
                both = [(r["overlap"][k][student][teacher] + r["overlap"][k][teacher][student]) / 2 for r in points]
                axes.plot([r["step"] + 1 for r in points], both, marker="o", ms=3, label=f"{student}, {teacher}")
    _shade(axes, points)
    axes.legend(frameon=False)
    return _svg(figure)


def field_accuracy_figure(records: Sequence[Record]) -> str | None:
    """Validation accuracy of every branch on its own field, and its mean over all fields dotted. SVG, or None."""
    points = [r for r in records if r["event"] == "accuracy"]
    if not points:
        return None
    figure, axes = _axes("validation accuracy (greedy)")
    branches = list(dict.fromkeys(cell["model"] for cell in points[0]["table"]))
    for number, branch in enumerate(branches):
        steps, cells = [r["step"] + 1 for r in points], [_cells(r, branch) for r in points]
        if branch in cells[0]:
            axes.plot(steps, [c[branch] for c in cells], color=f"C{number}", label=f"{branch}, own field")
        axes.plot(steps, [c["average"] for c in cells], color=f"C{number}", ls=":", label=f"{branch}, average")
    _shade(axes, [r for r in records if r["event"] == "behaviour"])
    axes.legend(frameon=False, fontsize="small")
    return _svg(figure)


def reward_figure(records: Sequence[Record]) -> str | None:
    """Training reward of every branch on its own field, averaged over five steps. SVG, or None."""
    updates = [r for r in records if r["event"] == "update"]
    if not updates:
        return None
    figure, axes = _axes("reward, native rollouts")
    for branch in dict.fromkeys(r["branch"] for r in updates):
        own = [r for r in updates if r["branch"] == branch]
        rewards = [r["native/reward"] for r in own]
        smooth = [sum(rewards[max(0, i - 4) : i + 1]) / len(rewards[max(0, i - 4) : i + 1]) for i in range(len(own))]
        axes.plot([r["step"] for r in own], smooth, label=branch)
    _shade(axes, [r for r in records if r["event"] == "behaviour"])
    axes.legend(frameon=False)
    return _svg(figure)


def _cells(record: Record, branch: str) -> dict[str, float]:
    return {cell["field"]: cell["greedy"]["value"] for cell in record["table"] if cell["model"] == branch}


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _shade(axes: Any, points: Sequence[Record]) -> None:
    """Shade RLVR phases: from the end of one measured phase to the next."""
    for before, after in pairwise(points):
        if after["phase"] == "rlvr":
            axes.axvspan(before["step"] + 1, after["step"] + 1, color=RLVR_SHADE, lw=0)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element whose black follows the page's text colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("#000000", "currentColor")
