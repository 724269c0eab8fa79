"""The table of docs/performance.md, from the results of `make bench` (`make docs`)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
MEASURED = ROOT / "benchmarks" / "results" / "table.json"
BEGIN, END = "<!-- table: written by `make docs` from benchmarks/results/ -->", "<!-- end of the table -->"
THREADS = 2
GRPO, LONG, OPD = "GRPO step", "GRPO step, prompts 10x longer", "OPD step, sampled token"
SAMPLING = "sampling 128 responses"
ROWS = (
    *((GRPO, kind) for kind in ("text", "image", "video")),
    (LONG, "image"),
    *((OPD, kind) for kind in ("text", "image", "video")),
    (SAMPLING, "image"),
)
"""Job and kind of prompts of each row of the table."""
HEADER = ("job", "against", "prompts", "theirs", "copd", "copd is faster by", "without shortcuts")
Results = dict[tuple[str, str, str], dict[str, Any]]
"""By job, kind and shortcuts."""


def renewed(page: str, measured: Path = MEASURED) -> str:
    """The page with its table written anew; raises ValueError where it lacks the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    return f"{before}{BEGIN}\n\n{table(measured)}\n\n{END}{after}"


def table(measured: Path) -> str:
    """What was measured where, and the rows."""
    results = json.loads(measured.read_text(encoding="utf-8"))
    lines = [HEADER, ("---",) * len(HEADER), *(cells(*row, by_name(results["rows"])) for row in ROWS)]
    facts = results["environment"]
    said = (
        f"{facts['machine']} with {facts['instructions']}, {facts['cores']} cores, {THREADS} threads, "
        f"torch {facts['torch']}, transformers {facts['transformers']}, TRL {facts['trl']}, {facts['date']}:"
    )
    return "\n".join([said, "", *("| " + " | ".join(line) + " |" for line in lines)])


def cells(job: str, kind: str, found: Results) -> tuple[str, ...]:
    """One row of the table."""
    best, bare = found[job, kind, "with"], found[job, kind, "without"]
    against = best["against"].partition(" (")[0]
    return job, against, kind, seconds(best["theirs"]), seconds(best["ours"]), times(best), times(bare)


def seconds(repetitions: list[float]) -> str:
    return f"{statistics.median(repetitions):.3g} s"


def times(row: dict[str, Any]) -> str:
    """The ratio of the medians, and the quartiles of the ratios of neighbouring repetitions."""
    low, high = row["quartiles"]
    return f"{row['ratio']:.1f}x [{low:.1f}, {high:.1f}]"


def by_name(rows: list[dict[str, Any]]) -> Results:
    return {(row["job"], row["kind"], row["shortcuts"]): row for row in rows if row["threads"] == THREADS}


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
