"""Why a row of the table is what it is: the matrix products of both sides, and how fast they run.

    .venv-bench/bin/python -m benchmarks.profile_rows --jobs opd sampling [--threads 1]

Runs the jobs of `benchmarks.run` with torch.profiler over each side, which makes small operators slower than they are:
the seconds of the table are not to be had here. What counts is how much work is left to save: where the products of
the other side are R times ours, and ours run no faster than its, R is about what can be reached.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import measure, theirs
from benchmarks.jobs import JOBS
from benchmarks.ours import Size
from benchmarks.profile_step import Operators, by_operator
from benchmarks.run import quiet

HEADER = ("job", "against", "kind", "threads", "shortcuts")
HEADER += ("GFLOP of products: ours", "theirs", "ratio", "their share of the time: ours", "theirs")
HEADER += ("their GFLOP/s: ours", "theirs")


class Profiled(float):
    """Seconds of the operators of a side, with all that the profiler says of them."""

    operators: dict[str, float]

    @classmethod
    def of(cls, operators: dict[str, float]) -> Profiled:
        taken = cls(operators["operators_seconds"])
        taken.operators = operators
        return taken


def profiled(work: Callable[[], object]) -> Profiled:
    """In the place of `benchmarks.measure.seconds`; once before, so that no library meets new shapes."""
    work()
    return Profiled.of(by_operator(work))


class ProfiledTurns(theirs.Turns):
    """In the place of `benchmarks.theirs.Turns`: the trainer's steps are profiled but the first, which is not kept."""

    _operators: Operators | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        pass

    def begin(self) -> None:
        self._operators = Operators()
        self._operators.__enter__()

    def taken(self) -> float:
        if self._operators is None:
            return 0.0
        self._operators.__exit__()
        return Profiled.of(self._operators.summary())

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._operators is not None:
            self._operators.__exit__()


def cells(row: measure.Row) -> tuple[str, ...]:
    """The line of a row, in the order of `HEADER`; means over the repetitions."""
    ours, other = (
        {name: sum(each.operators[name] for each in side) / len(side) for name in side[0].operators}
        for side in (row.ours, row.theirs)
    )
    work, share, rate = "products_gflop", "products_share", "products_gflops"
    return (
        *(row.job, row.against, row.kind, str(row.threads), row.shortcuts),
        *(f"{ours[work]:.1f}", f"{other[work]:.1f}", f"{other[work] / ours[work]:.2f}"),
        *(f"{ours[share]:.0%}", f"{other[share]:.0%}", f"{ours[rate]:.0f}", f"{other[rate]:.0f}"),
    )


def profile_rows(names: Sequence[str], size: Size) -> list[tuple[str, ...]]:
    """The lines of these jobs."""
    with (
        patch.object(measure, "seconds", profiled),
        patch.object(theirs, "seconds", profiled),
        patch.object(theirs, "Turns", ProfiledTurns),
        patch.object(theirs, "WARMUPS", 1),
        patch.dict(measure.interleave.__kwdefaults__, warmups=0),
    ):
        return [cells(row) for name in names for row in JOBS[name](size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=["opd", "sampling", "long_training"], choices=JOBS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=1)
    asked = parser.parse_args()
    quiet()
    torch.set_num_threads(asked.threads)
    peak = measure.gemm_peak()
    lines = profile_rows(asked.jobs, Size(repetitions=asked.repetitions))
    print(measure.describe(measure.environment()))
    print(measure.markdown(HEADER, lines))
    print(f"\nOne large product: {peak:.0f} GFLOP/s.")


if __name__ == "__main__":
    main()
