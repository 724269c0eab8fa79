"""The table of docs/performance.md, from the results of `make bench` (`make docs`).

What the results note of themselves stands before it. A column is measured with AVX2 alone (benchmarks/README.md says
how) and stays empty until its file of results is there.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
MEASURED, ON_AVX2 = (ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("table", "avx2"))
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
HEADER = (
    *("job", "against", "prompts", "theirs", "copd", "copd is faster by"),
    *("without shortcuts", "with AVX2 alone"),
)
Results = dict[tuple[str, str, str], dict[str, Any]]
"""By job, kind and shortcuts."""


def renewed(page: str, measured: Path = MEASURED, on_avx2: Path = ON_AVX2) -> str:
    """The page with its table written anew; raises ValueError where it lacks the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    return f"{before}{BEGIN}\n\n{table(measured, on_avx2)}\n\n{END}{after}"


def table(measured: Path, on_avx2: Path) -> str:
    """What was measured where, and the rows."""
    found, again = read(measured), read(on_avx2) if on_avx2.is_file() else {}
    lines = [HEADER, ("---",) * len(HEADER), *(cells(*row, found, again) for row in ROWS)]
    results = json.loads(measured.read_text(encoding="utf-8"))
    facts, note = results["environment"], [results["note"], ""] if "note" in results else []
    said = (
        f"{facts['machine']}, {facts['cores']} cores, {THREADS} threads, torch {facts['torch']}, transformers "
        f"{facts['transformers']}, TRL {facts['trl']}, {facts['date']}:"
    )
    return "\n".join([*note, said, "", *("| " + " | ".join(line) + " |" for line in lines)])


def cells(job: str, kind: str, found: Results, again: Results) -> tuple[str, ...]:
    """One row of the table."""
    best, bare = found[job, kind, "with"], found[job, kind, "without"]
    against = best["against"].partition(" (")[0]
    avx2 = times(again[job, kind, "with"]) if again else "not measured"
    return job, against, kind, seconds(best["theirs"]), seconds(best["ours"]), times(best), times(bare), avx2


def seconds(repetitions: list[float]) -> str:
    return f"{statistics.median(repetitions):.3g} s"


def times(row: dict[str, Any]) -> str:
    """The ratio of the medians, and the quartiles of the ratios of neighbouring repetitions."""
    low, high = row["quartiles"]
    return f"{row['ratio']:.1f}x [{low:.1f}, {high:.1f}]"


def read(path: Path) -> Results:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["job"], row["kind"], row["shortcuts"]): row for row in rows if row["threads"] == THREADS}


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
