"""The page of a running run: its report, as far as its record goes, below where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from copd.report.figures import of_update
from copd.report.page import rendered, run_page
from copd.report.reading import RunRecord
from copd.runs.numbers import number

COLUMNS = {
    "reward": "reward",
    "accuracy": "right",
    "groups_with_signal": "groups with signal",
    "entropy": "entropy",
    "response_length": "length",
    "truncated_rate": "truncated",
    "delta_abs": "mean |delta|",
    "grad_norm": "gradient norm",
    "logp_mismatch": "mismatch",
    "tokens_per_second": "tokens/s",
}
"""Values of an update, and their names in the table of the last ones."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands: how many steps of how many, in which cycle of how many and which phase, how long it needs.

    `left`: seconds, None where nothing was timed yet or nobody trains. `written`: the time of the last record, in
    seconds since 1970.
    """

    state: Literal["training", "stopped", "finished"]
    step: int
    steps: int
    cycle: int
    cycles: int
    phase: str
    left: float | None
    written: float


def live_page(run: RunRecord, standing: Standing) -> str:
    """The page of a run that was measured at least once."""
    return rendered("watch.html", {**run_page(run), "live": standing, "columns": COLUMNS, "latest": latest(run)}, [run])


def waiting_page(label: str, why: str) -> str:
    """The page of a run that there is nothing to say about yet."""
    return rendered("waiting.html", {"label": label, "why": why})


def latest(run: RunRecord) -> list[tuple[str, int, list[str]]]:
    """Of each branch its name, the steps up to its last update, and that update's values, a dash for those it lacks."""
    last: dict[str, Any] = {update["branch"]: update for update in run.events("update")}
    found = []
    for branch, update in last.items():
        values = [of_update(update, name) for name in COLUMNS]
        found.append((branch, update["step"] + 1, ["–" if value is None else number(value) for value in values]))
    return found
