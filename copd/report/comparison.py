"""The contents of a page about several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from copd.measure.compare import Difference, differences
from copd.measure.evaluate import AVERAGE, columns_of
from copd.report import contents, words
from copd.report.figures import SIZE, SMOOTHED, branches_of, finished_figure
from copd.report.reading import RunRecord
from copd.report.single import single
from copd.report.svg import QUIET, as_label, series
from copd.types import BASE

SECTIONS = {
    "result": "Result",
    "curves": "Curves",
    "time": "Where the time went",
    "runs": "Each run by itself",
    "configuration": "Configuration",
}
LINES = ("-", "--", "-.", ":")

Curve = Callable[[RunRecord], list[tuple[int, float]]]
"""A run's values, each with the number of steps done."""


def comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The contents of the page."""
    capabilities = columns_of([capability for run in runs for capability in run.capabilities])
    groups, all_finished = _groups(runs, capabilities), all(run.finished for run in runs)
    shown = {model for _, rows in groups for model, *_ in rows}
    answers = [replace(a, model=words.label_of(run, a.model)) for run in runs if all_finished for a in run.answers]
    against = [
        (label, _by_place(differences([a for a in answers if a.model in shown], label))) for label in _references(runs)
    ]
    products = [words.label_of(run, model) for run in runs for model in run.products]
    reference, rivals = against[-1][0], [d for d in against[-1][1].values() if d.model in products]
    return {
        "runs": runs,
        "times": [(run, contents.time_spent(run)) for run in runs],
        "sections": list(SECTIONS.items()),
        "verdict": words.compared_runs(runs, reference, rivals),
        "capabilities": capabilities,
        "groups": groups,
        "products": products,
        "against": [(label, found, _compared(groups, found)) for label, found in against if found],
        "figures": _figures(runs),
        "by_rollouts": _by_rollouts(runs),
        "ledger": contents.ledger_rows(runs),
        "each": [single(run, len(runs)) for run in runs],
        "several": True,
        "settings": _settings(runs),
    }


def _references(runs: Sequence[RunRecord]) -> list[str]:
    """The models that all are compared with: the first run's base, and the first product.

    A product that is its run's only one goes before those of runs with several. A young run may have none yet.
    """
    made = sorted((run for run in runs if run.products), key=lambda run: len(run.products) > 1)
    labels = [words.label_of(runs[0], BASE), *(words.label_of(run, run.products[0]) for run in made[:1])]
    return list(dict.fromkeys(labels))


def _groups(runs: Sequence[RunRecord], capabilities: Sequence[str]) -> list[tuple[str, list[contents.Row]]]:
    """The models of each run. A base with the same answers as an earlier base is not repeated."""
    groups, bases = [], []
    for run in runs:
        base = [(a.capability, a.problems, a.greedy_P.tolist()) for a in run.answers if a.model == BASE]
        rows = []
        for model in run.models:
            if model != BASE or not base or base not in bases:
                cells = {cell.capability: cell.greedy for cell in run.table if cell.model == model}
                rows.append(
                    (
                        words.label_of(run, model),
                        words.model_label(model),
                        [cells.get(capability) for capability in capabilities],
                    )
                )
        bases.append(base)
        groups.append((run.label if run.finished else f"{run.label} (not finished: validation)", rows))
    return groups


def _compared(
    groups: Sequence[tuple[str, list[contents.Row]]], found: dict[tuple[str, str], Difference]
) -> list[tuple[str, list[contents.Row]]]:
    """The groups without the models that were not compared."""
    models = {model for model, _ in found}
    kept = [(name, [row for row in rows if row[0] in models]) for name, rows in groups]
    return [(name, rows) for name, rows in kept if rows]


def _by_place(found: Sequence[Difference]) -> dict[tuple[str, str], Difference]:
    return {(d.model, d.capability): d for d in found}


def _figures(runs: Sequence[RunRecord]) -> list[tuple[str, Markup, str]]:
    drawings: Sequence[tuple[str, Curve, str]] = (
        (
            "Own capability",
            _own_capability,
            "Greedy validation accuracy of each branch in its own capability, mean over the branches. Level: the base.",
        ),
        (
            "All capabilities",
            _all_capabilities,
            "Greedy validation accuracy on average over all capabilities, mean over the branches. Level: the base.",
        ),
        ("Reward", _reward, "Of the branches' own rollouts, a mean over five steps and the branches."),
        ("Overlap", _overlap, "Top-k overlap at the largest k, mean over all pairs of branches."),
        ("Symmetric KL", _divergence, "Nats per token, mean over all pairs of branches."),
    )
    figures = [(title, _overlaid(runs, curve, title), text) for title, curve, text in drawings]
    return [(title, drawing, text) for title, drawing, text in figures if drawing is not None]


def _overlaid(runs: Sequence[RunRecord], curve: Curve, title: str) -> Markup | None:
    """One line per run, over rollouts if all runs have a ledger, else over steps."""
    figure = Figure(figsize=SIZE, layout="constrained")
    drawn, by_rollouts = False, _by_rollouts(runs)
    for number, run in enumerate(runs):
        points = curve(run)
        if not points:
            continue
        drawn, place = True, run.rollouts_after() if by_rollouts else float
        steps, values = zip(*points, strict=True)
        style: dict[str, Any] = {**series(number), "ls": LINES[number % len(LINES)], "ms": 4}
        style["markevery"] = max(1, len(steps) // 8)
        figure.gca().plot([place(step) for step in steps], values, label=as_label(run.label), **style)
    if not drawn:
        return None
    axes = figure.gca()
    starts = [curve(run)[0] for run in runs if curve in (_own_capability, _all_capabilities) and curve(run)]
    if starts and starts[0][0] == 0:  # before the first step every branch is the base
        axes.axhline(starts[0][1], color=QUIET, ls="-.", lw=1, label="base")
    if by_rollouts:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
    return finished_figure(figure, axes, title, "thousand rollouts" if by_rollouts else "step")


def _by_rollouts(runs: Sequence[RunRecord]) -> bool:
    return all(run.ledger is not None for run in runs)


def _own_capability(run: RunRecord) -> list[tuple[int, float]]:
    """A branch without its own capability is trained on all, and counts with its average."""
    found = []
    for point in run.events("accuracy"):
        cells = {(cell["model"], cell["capability"]): cell["greedy"]["value"] for cell in point["table"]}
        values = (cells.get((b, b), cells[b, AVERAGE]) for b in branches_of(run.records))
        found.append((point["step"] + 1, fmean(values)))
    return found


def _all_capabilities(run: RunRecord) -> list[tuple[int, float]]:
    found, branches = [], branches_of(run.records)
    for point in run.events("accuracy"):
        cells = [c for c in point["table"] if c["model"] in branches and c["capability"] == AVERAGE]
        found.append((point["step"] + 1, fmean(c["greedy"]["value"] for c in cells)))
    return found


def _reward(run: RunRecord) -> list[tuple[int, float]]:
    by_step: dict[int, list[float]] = {}
    for update in run.events("update"):
        if (reward := update.get("native/reward")) is not None:
            by_step.setdefault(update["step"] + 1, []).append(reward)
    means = [(step, fmean(values)) for step, values in sorted(by_step.items())]
    return [
        (step, fmean(value for _, value in means[max(0, i + 1 - SMOOTHED) : i + 1]))
        for i, (step, _) in enumerate(means)
    ]


def _overlap(run: RunRecord) -> list[tuple[int, float]]:
    return _pairs(run, lambda point: point["overlap"][max(point["overlap"], key=int)])


def _divergence(run: RunRecord) -> list[tuple[int, float]]:
    return _pairs(run, lambda point: point["symmetric_kl"])


def _pairs(run: RunRecord, matrix: Callable[[Any], Any]) -> list[tuple[int, float]]:
    """Mean over all pairs and both directions; empty for a single branch."""
    found = []
    for point in run.events("behaviour"):
        square = matrix(point)
        values = [v for a, b in combinations(square, 2) for v in (square[a][b], square[b][a]) if v is not None]
        found += [(point["step"] + 1, fmean(values))] if values else []
    return found


def _settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str], bool]]:
    """Every field of the recipes, the base's hash and the versions, with a value per run and whether they differ."""
    own = []
    for run in runs:
        extra = {key: run.manifest.get(key, "") for key in ("versions", "base_sha256", "python", "machine")}
        own.append(dict(contents.flattened({**run.recipe, **extra})))
    paths = dict.fromkeys(path for settings in own for path in settings)
    rows = [(path, [settings.get(path, "–") for settings in own]) for path in paths]
    return [(path, values, len(set(values)) > 1) for path, values in rows]
