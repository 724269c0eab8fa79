"""What all benchmarks share: turns, medians and spread, the table, the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

BEGIN, END = "<!-- table: written by `make bench` -->", "<!-- end of the table -->"
HEADER = ("job", "against", "kind", "threads", "shortcuts", "ours", "theirs", "ratio", "required", "reached")
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy")

WARMUPS = 3
"""Turns of each side that are not counted: libraries make themselves ready for the shapes that they meet."""

Times = dict[str, list[float]]
"""Of each side, the seconds of its repetitions, in the order in which they were taken."""


def seconds(work: Callable[[], object]) -> float:
    """Seconds on the clock that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleave(sides: Mapping[str, Callable[[int], object]], repetitions: int, *, warmups: int = WARMUPS) -> Times:
    """Seconds of each side, all sides in turn at every repetition, whose number they are given.

    Who goes first moves on by one every time. The first `warmups` repetitions, numbered like the others, are not kept.
    """
    names = list(sides)
    times: Times = {name: [] for name in names}
    for number in range(warmups + repetitions):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            taken = seconds(lambda name=name, number=number: sides[name](number))
            if number >= warmups:
                times[name].append(taken)
    return times


@dataclass(frozen=True)
class Row:
    """One line of the table: what we took and what the other side took, and by how much ours must be less.

    `ours` and `theirs` are measured in turns and go together pair by pair; `unit` is theirs both. `shortcuts` says
    whether our shortcuts that depend on the data act, "-" where they have nothing to act on. `note` is kept in the
    file of results only.
    """

    job: str
    against: str
    kind: str
    threads: int
    shortcuts: str
    ours: list[float]
    theirs: list[float]
    required: float | None = None
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median of theirs over median of ours."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def paired(self) -> tuple[float, float]:
        """First and third quartile of the ratio of each pair."""
        ratios = sorted(theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True))
        if len(ratios) < 2:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def cells(self) -> tuple[str, ...]:
        """The line, in the order of `HEADER`."""
        low, high = self.paired
        return (
            self.job,
            self.against,
            self.kind,
            str(self.threads),
            self.shortcuts,
            spread(self.ours, self.unit),
            spread(self.theirs, self.unit),
            f"**{self.ratio:.2f}** [{low:.2f}, {high:.2f}]",
            "-" if self.required is None else f"{self.required:.2f}",
            "-" if self.required is None else "yes" if self.ratio >= self.required else "no",
        )


def spread(values: Sequence[float], unit: str) -> str:
    """Median, least and greatest value."""
    low, middle, high = (f"{value:.3g}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} [{low}, {high}] {unit}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    return markdown(HEADER, [row.cells() for row in rows])


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *lines))


def environment() -> dict[str, str]:
    """The machine and the versions that a figure depends on."""
    found = {"machine": processor_name(), "cores": str(os.cpu_count()), "system": platform.platform(terse=True)}
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    found["python"] = platform.python_version()
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    found["date"] = time.strftime("%Y-%m-%d")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    found["load before"] = f"{load:.1f}"
    return found


def processor_name() -> str:
    """The model of the CPU, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(facts: Mapping[str, str]) -> str:
    """The environment in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def save(path: Path, facts: Mapping[str, str], **results: object) -> None:
    """Write results with their environment as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": dict(facts), **results}, indent=1) + "\n", encoding="utf-8")


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows with all their repetitions."""
    return [{**asdict(row), "ratio": row.ratio, "quartiles": row.paired} for row in rows]


def write_between_markers(page: Path, text: str) -> None:
    """Put `text` between the markers of a page; raises ValueError where the page lacks them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def gemm_peak(size: int = 1024, repetitions: int = 8) -> float:
    """The most GFLOP/s that a product of two square float32 matrices reaches on the threads in use."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    torch.matmul(left, right)
    best = min(seconds(lambda: torch.matmul(left, right)) for _ in range(repetitions))
    return 2 * size**3 / best / 1e9
