"""Curves of a run as SVG, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from matplotlib.figure import Figure

Record = Mapping[str, Any]
RLVR_SHADE = "#8884"


def overlap_figure(records: Sequence[Record]) -> str | None:
    """Top-k overlap between each two branches after every phase. SVG, or None where there is nothing to draw."""
    return _alone(draw_overlap, records)


def divergence_figure(records: Sequence[Record]) -> str | None:
    """Symmetric KL between each two branches after every phase. SVG, or None where there is nothing to draw."""
    return _alone(draw_divergence, records)


def accuracy_figure(records: Sequence[Record]) -> str | None:
    """Validation accuracy of every branch on its own field, and on average. SVG, or None."""
    return _alone(draw_accuracy, records)


def reward_figure(records: Sequence[Record]) -> str | None:
    """Training reward of every branch on its own field. SVG, or None."""
    return _alone(draw_reward, records)


def draw_overlap(axes: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw the overlap at the largest k; False where fewer than two branches are recorded."""
    points = _events(records, "behaviour")
    k = max(points[0]["overlap"], key=int) if points else ""
    axes.set_title(f"top-{k} overlap between branches", fontsize="medium", loc="left")
    return _draw_pairs(axes, [(point["step"], point["overlap"][k]) for point in points], label, style)


def draw_divergence(axes: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw the symmetric KL in nats per token; False where fewer than two branches are recorded."""
    axes.set_title("symmetric KL between branches, nats", fontsize="medium", loc="left")
    points = _events(records, "behaviour")
    return _draw_pairs(axes, [(point["step"], point["symmetric_kl"]) for point in points], label, style)


def _draw_pairs(axes: Any, points: Sequence[tuple[int, Mapping[str, Any]]], label: str, style: str) -> bool:
    """A line for each two branches, both directions averaged."""
    if not points or len(points[0][1]) < 2:
        return False
    for number, (student, teacher) in enumerate(combinations(points[0][1], 2)):
        both = [(matrix[student][teacher] + matrix[teacher][student]) / 2 for _, matrix in points]
        name = f"{label}{student}, {teacher}"
        axes.plot([step + 1 for step, _ in points], both, color=f"C{number}", ls=style, marker="o", ms=3, label=name)
    return True


def draw_accuracy(axes: Any, records: Sequence[Record], *, label: str = "", style: str = "-") -> bool:
    """Draw greedy validation accuracy: own field as given, average over the fields dotted; False without records."""
    points = _events(records, "accuracy")
    for number, branch in enumerate(dict.fromkeys(cell["model"] for cell in points[0]["table"]) if points else []):
        steps, cells = [p["step"] + 1 for p in points], [_cells(p, branch) for p in points]
        if branch in cells[0]:
            own = [cell[branch] for cell in cells]
            axes.plot(steps, own, color=f"C{number}", ls=style, label=f"{label}{branch}, own field")
        average = [cell["average"] for cell in cells]
        axes.plot(steps, average, color=f"C{number}", ls=":", label=f"{label}{branch}, average")
    axes.set_title("greedy accuracy, validation", fontsize="medium", loc="left")
    return bool(points)


def draw_reward(axes: Any, records: Sequence[Record]) -> bool:
    """Draw the reward of native rollouts, a mean over five steps; False where there were none."""
    updates = [update for update in _events(records, "update") if "native/reward" in update]
    for branch in dict.fromkeys(update["branch"] for update in updates):
        own = [update for update in updates if update["branch"] == branch]
        rewards = [update["native/reward"] for update in own]
        windows = [rewards[max(0, i - 4) : i + 1] for i in range(len(rewards))]
        axes.plot([u["step"] + 1 for u in own], [sum(w) / len(w) for w in windows], label=branch)
    axes.set_title("reward of native rollouts", fontsize="medium", loc="left")
    return bool(updates)


def shade_rlvr(axes: Any, records: Sequence[Record]) -> None:
    """Shade RLVR phases, each from the end of the phase before."""
    for before, after in pairwise(_events(records, "behaviour")):
        if after["phase"] == "rlvr":
            axes.axvspan(before["step"] + 1, after["step"] + 1, color=RLVR_SHADE, lw=0)


def plain_axes(axes: Any) -> None:
    """Only what a reader needs: steps below, no box."""
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)


def _alone(draw: Callable[[Any, Sequence[Record]], bool], records: Sequence[Record]) -> str | None:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    plain_axes(axes)
    if not draw(axes, records):
        return None
    shade_rlvr(axes, records)
    axes.legend(frameon=False, fontsize="small")
    return _svg(figure)


def _events(records: Sequence[Record], name: str) -> list[Record]:
    return [record for record in records if record["event"] == name]


def _cells(record: Record, branch: str) -> dict[str, float]:
    return {cell["field"]: cell["greedy"]["value"] for cell in record["table"] if cell["model"] == branch}


def _svg(figure: Figure) -> str:
    """The figure as an SVG element whose black follows the page's text colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("#000000", "currentColor")
