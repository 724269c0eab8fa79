"""Numbers, settings and tables in the words of the pages about results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from copd.maths.seeds import t_interval
from copd.measure.evaluate import Estimate
from copd.report.words import points, within


def spread(values: Sequence[float]) -> str:
    """A mean with its t interval over seeds."""
    value, low, high = t_interval(list(values))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if len(values) > 1 else f"{value:.3f}"


def percents(values: Sequence[float]) -> str:
    """The mean of shares in %, with its t interval over seeds."""
    return share(Estimate(*t_interval(list(values))), len(values))


def share(e: Estimate, seeds: int) -> str:
    """A percentage with its interval over seeds, if there are several."""
    return f"{100 * e.value:.1f}" + (f" [{100 * e.low:.1f}, {100 * e.high:.1f}]" if seeds > 1 else "")


def gain(e: Estimate, seeds: int) -> str:
    """A difference in points with its interval over seeds, if there are several."""
    return points(e.value) + (f" {within(e.low, e.high)}" if seeds > 1 else "")


def settings(changes: dict[str, object]) -> str:
    """The overrides of a candidate."""
    return ", ".join(f"`{name}={json.dumps(value)}`" for name, value in changes.items()) or "as the arm"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *lines))
