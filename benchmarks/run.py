"""The tables of benchmarks/README.md: `make bench`, or `python -m benchmarks.run --help` in its environment."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import torch
import transformers

from benchmarks import growth, measure
from benchmarks.jobs import JOBS, ONCE
from benchmarks.ours import Size

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=Size().repetitions)
    parser.add_argument("--jobs", nargs="*", default=[*JOBS, "growth"], choices=[*JOBS, "growth"])
    parser.add_argument("--no-page", action="store_true", help="leave benchmarks/README.md as it is")
    parser.add_argument("--results", default="table", help="name of the file in benchmarks/results/")
    asked = parser.parse_args()
    quiet()
    run(asked)


def run(asked: argparse.Namespace) -> None:
    """Measure what is asked for, print it, and write it down."""
    started, facts = time.perf_counter(), measure.environment()
    size = Size(repetitions=asked.repetitions)
    rows: list[measure.Row] = []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name in [job for job in JOBS if job in asked.jobs]:
            if name in ONCE and threads != asked.threads[-1]:
                continue
            found = list(JOBS[name](size))
            print(measure.table(found), flush=True)
            rows += found
            measure.save(RESULTS / f"{asked.results}.json", facts, rows=measure.as_json(rows))
    lines = ""
    if "growth" in asked.jobs:
        curves = growth.measure_all(growth.AXES)
        measure.save(RESULTS / "growth.json", facts, threads=torch.get_num_threads(), curves=growth.as_json(curves))
        lines = growth.table(curves, torch.get_num_threads())
    minutes = (time.perf_counter() - started) / 60
    text = "\n\n".join(filter(None, [measure.describe(facts), measure.table(rows), lines]))
    print(f"\n{text}\n\n{minutes:.1f} minutes")
    if not asked.no_page:
        measure.write_between_markers(PAGE, text)


def quiet() -> None:
    """Nothing is printed but the table: not what the libraries say of settings and deprecations."""
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
