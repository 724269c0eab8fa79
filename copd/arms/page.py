"""The page of a comparison: what to choose, table, differences, curves with bands, behaviour, cost, commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from copd.arms.comparison import Comparison
from copd.arms.outcomes import Outcome, mean_of_pairs
from copd.arms.summary import ArmRow, Contrast, Sources, arm_rows, contrasts
from copd.maths.seeds import t_interval
from copd.measure.evaluate import AVERAGE, columns_of
from copd.report.figures import SIZE, finished_figure
from copd.report.page import rendered
from copd.report.svg import series
from copd.report.words import listed, points, within
from copd.system.files import replace_text

PAGE = "comparison.html"
ACCOUNTS = {
    "rollouts": "Equal rollouts",
    "steps": "Equal steps of a model (the paper's convention)",
    "critical_path": "Equal rollouts on the critical path (a machine for each capability)",
}
CLEAR = 0.05
"""A difference is clear below this p by Holm's correction."""


@dataclass(frozen=True)
class AccountView:
    """All that the page says under one account."""

    title: str
    rows: list[ArmRow]
    against: list[tuple[str, list[Contrast]]]
    verdict: list[str]
    figures: list[tuple[str, Markup, str]]


def write_page(out: Path, comparison: Comparison, outcomes: Sequence[Outcome], sources: Sources) -> Path:
    """Write `comparison.html` into `out`; returns its path."""
    views = [
        _view(account, [o for o in outcomes if o.account == account], comparison, sources)
        for account in comparison.accounts
        if any(o.account == account for o in outcomes)
    ]
    commands = {o.arm: o.command for o in reversed(outcomes) if o.account == comparison.accounts[0]}
    contents = {
        "comparison": comparison,
        "columns": columns_of(list(outcomes[0].problems)),
        "count": sum(count for _, count in outcomes[0].problems.values()),
        "seeds": sorted({o.seed for o in outcomes}),
        "views": views,
        "commands": dict(reversed(commands.items())),
    }
    replace_text(out / PAGE, rendered("arms.html", contents))
    return out / PAGE


def _view(account: str, outcomes: Sequence[Outcome], comparison: Comparison, sources: Sources) -> AccountView:
    rows = arm_rows(outcomes, sources)
    against = [(name, contrasts(outcomes, name, sources)) for name in comparison.compared_with]
    figures = [
        (title, drawing, text)
        for title, drawing, text in (
            (
                "Validation accuracy",
                _curves(outcomes, _validation, f"{account}: validation accuracy", "thousand rollouts"),
                "Greedy, average over capabilities, of the model that the arm makes; of branches that are merged "
                "at the end, each in its own capability. Bands: 95 % over seeds.",
            ),
            (
                "Overlap between branches",
                _curves(outcomes, _overlap, f"{account}: overlap", "step"),
                "At the largest k, at the ends of phases, mean of all pairs.",
            ),
            (
                "Symmetric KL between branches",
                _curves(outcomes, _divergence, f"{account}: symmetric KL", "step"),
                "Nats per token, at the ends of phases, mean of all pairs.",
            ),
        )
        if drawing is not None
    ]
    said = [*verdict(rows, against), *of_other_problems(outcomes), *of_several_makings(outcomes)]
    return AccountView(ACCOUNTS[account], rows, against, said, figures)


def of_other_problems(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence where arms or seeds answered other problems than the first outcome did."""
    arms = dict.fromkeys(o.arm for o in outcomes if o.problems != outcomes[0].problems)
    said = (
        "{} answered other problems than {}: means are no ranking, and only answers to the same problems are compared."
    )
    return [said.format(listed(arms), outcomes[0].arm)] if arms else []


def of_several_makings(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence where the seeds of an arm were trained on different rows, models, code or versions."""
    found: dict[str, set[str]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.arm, set()).update({outcome.made_of} - {""})
    arms = [arm for arm, makings in found.items() if len(makings) > 1]
    said = "Seeds of {} were trained on different rows, models, code or versions: run them anew."
    return [said.format(listed(arms))] if arms else []


def verdict(rows: Sequence[ArmRow], against: Sequence[tuple[str, Sequence[Contrast]]]) -> list[str]:
    """What to choose, in sentences that claim no more than the intervals support."""
    column = AVERAGE if AVERAGE in rows[0].accuracy else next(iter(rows[0].accuracy))
    percent = {row.arm: f"{100 * row.accuracy[column].value:.1f} %" for row in rows}
    experts = [row.arm for row in rows if row.models > 1]
    one_model = [row for row in rows if row.models == 1] or rows
    best = max(one_model, key=lambda row: row.accuracy[column].value)
    alike = [row.arm for row in one_model if math.isclose(row.accuracy[column].value, best.accuracy[column].value)]
    said = [f"{listed(alike)} {'has' if len(alike) == 1 else 'have'} the best {column}: {percent[best.arm]}."]
    said += [f"{arm}, a model for each capability, has {percent[arm]}." for arm in experts if arm not in alike]
    if len({row.seeds for row in rows}) > 1:
        said.append("Not all arms have the same seeds, so that means are no ranking; differences are seed by seed.")
    if len(best.seeds) < 2:
        return [*said, "One seed does not say how another would come out: the table has no intervals over seeds."]
    for reference, found in against:
        own = [c for c in found if c.capability == column and c.arm not in experts and c.seeds > 1]
        clear = [c for c in own if c.holm < CLEAR]
        for word, arms in (
            ("ahead of", [c for c in clear if c.over_seeds.value > 0]),
            ("behind", [c for c in clear if c.over_seeds.value < 0]),
        ):
            if arms:
                said.append(f"Clearly {word} {reference}, by Holm's correction: {listed(map(_gained, arms))}.")
        if unclear := [_gained(c) for c in own if c.holm >= CLEAR]:
            said.append(f"No clear difference to {reference}: {listed(unclear)}.")
    return said


def _gained(contrast: Contrast) -> str:
    e = contrast.over_seeds
    return f"{contrast.arm} ({points(e.value)} {within(e.low, e.high)})"


Points = list[tuple[float, float]]


def _curves(outcomes: Sequence[Outcome], values: Any, title: str, unit: str) -> Markup | None:
    """A line for each arm, the mean over its seeds, in a band of its t interval."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes, drawn = figure.add_subplot(), 0
    for arm in dict.fromkeys(o.arm for o in outcomes):
        own = [points for points in (values(o) for o in outcomes if o.arm == arm) if len(points) > 1]
        if not own:
            continue
        shared = min(map(len, own))
        across = [[points[i] for points in own] for i in range(shared)]
        at = [fmean(x for x, _ in points) for points in across]
        spans = [t_interval([y for _, y in points]) for points in across]
        style: dict[str, Any] = series(drawn)
        axes.plot(at, [mean for mean, _, _ in spans], label=arm, ms=3, lw=1.2, **style)
        if len(own) > 1:
            axes.fill_between(
                at, [low for _, low, _ in spans], [high for *_, high in spans], color=style["color"], alpha=0.15, lw=0
            )
        drawn += 1
    return finished_figure(figure, axes, title, unit) if drawn else None


def _validation(outcome: Outcome) -> Points:
    return [(at / 1000, value) for at, cells in outcome.curve if (value := _average(outcome, cells)) is not None]


def _average(outcome: Outcome, cells: dict[str, float]) -> float | None:
    """Of the product where it is validated, else of each branch in its own capability."""
    product = outcome.products[0]
    names = list(outcome.problems)
    values = [cells.get(f"{product}/{name}", cells.get(f"{name}/{name}")) for name in names]
    return None if None in values else fmean(value for value in values if value is not None)


def _overlap(outcome: Outcome) -> Points:
    return _of_pairs(outcome, "overlap")


def _divergence(outcome: Outcome) -> Points:
    return _of_pairs(outcome, "symmetric_kl")


def _of_pairs(outcome: Outcome, measure: str) -> Points:
    means = ((point["step"] + 1, mean_of_pairs(point, measure)) for point in outcome.behaviour)
    return [(step, mean) for step, mean in means if mean is not None]
