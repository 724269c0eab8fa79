"""The report of one run: a single HTML page without scripts or network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from copd.files import replace_text
from copd.report.figures import accuracy_figure, divergence_figure, overlap_figure, reward_figure
from copd.runs.runlog import RUN_MANIFEST, read_lines

REPORT = "report.html"
LEDGER_COLUMNS = (
    "rollouts",
    "tokens_generated",
    "tokens_scored",
    "tokens_trained",
    "collect_seconds",
    "score_seconds",
    "update_seconds",
)


def write_report(folder: Path) -> Path:
    """Write the report of a finished run from its manifest, metrics and samples; returns its path."""
    manifest = json.loads((folder / RUN_MANIFEST).read_text(encoding="utf-8"))
    records = list(read_lines(folder / "metrics.jsonl"))
    page = (
        _environment()
        .get_template("run.html")
        .render(recipe=manifest["recipe"], samples=_last_samples(folder), **_contents(records))
    )
    path = folder / REPORT
    replace_text(path, page)
    return path


def _contents(records: list[dict[str, Any]]) -> dict[str, Any]:
    result = next(r for r in records if r["event"] == "result")["table"]
    ledger = next(r for r in records if r["event"] == "ledger")
    behaviour = [r for r in records if r["event"] == "behaviour"]
    fields = list(dict.fromkeys(cell["field"] for cell in result))
    ks = sorted({k for cell in result for k in cell["pass_at"]}, key=int)
    greedy = ("Greedy accuracy", _rows(result, fields, lambda cell: cell["greedy"]))
    sampled = [(f"pass@{k}", _rows(result, fields, lambda cell: cell["pass_at"][k])) for k in ks]  # noqa: B023
    return {
        "fields": fields,
        "tables": [greedy, *sampled],
        "kl_is_exact": all(point.get("kl_is_exact", True) for point in behaviour),
        "own_fields": [field for field in fields if field != "average"],
        "branches": list(behaviour[0]["accuracy"]),
        "behaviour": behaviour,
        "ledger": ledger,
        "ledger_columns": LEDGER_COLUMNS,
        "planned_rollouts": ledger["planned_rollouts"],
        "figures": [
            ("Overlap between the branches", overlap_figure(records)),
            ("Divergence between the branches", divergence_figure(records)),
            ("Accuracy", accuracy_figure(records)),
            ("Reward", reward_figure(records)),
        ],
    }


def _rows(
    result: list[dict[str, Any]], fields: list[str], estimate: Callable[[dict[str, Any]], Any]
) -> list[tuple[str, list[Any]]]:
    """Each model with its estimate in every field."""
    models = dict.fromkeys(cell["model"] for cell in result)
    by_place = {(cell["model"], cell["field"]): cell for cell in result}
    return [(model, [estimate(by_place[model, field]) for field in fields]) for model in models]


def _last_samples(folder: Path) -> list[dict[str, Any]]:
    samples = list(read_lines(folder / "samples.jsonl"))
    return [sample for sample in samples if sample["step"] == samples[-1]["step"]]


def _environment() -> Environment:
    return Environment(loader=PackageLoader("copd.report"), autoescape=select_autoescape(), trim_blocks=True)
