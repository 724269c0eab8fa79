"""How long `copd data check` takes for a million rows of text, and how much memory: one core, no media.

    python benchmarks/data_check.py [--rows 1000000] [--format jsonl|parquet]

Prints seconds on the clock, seconds of CPU time, and the peak of resident memory in MiB before and after. The file is
written by another process.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from copd.data.check import check_file

QUESTION = (
    "A train leaves at {i} and travels {n} km at {v} km/h with two stops of five minutes each. When does it arrive?"
)


def write(path: Path, rows: int) -> None:
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for i in range(rows):
                file.write(json.dumps(native(i)) + "\n")
        return
    import pyarrow
    import pyarrow.parquet

    first = pyarrow.Table.from_pylist([verl(0)])
    with pyarrow.parquet.ParquetWriter(path, first.schema) as writer:
        for start in range(0, rows, 100_000):
            batch = [verl(i) for i in range(start, min(start + 100_000, rows))]
            writer.write_table(pyarrow.Table.from_pylist(batch, first.schema))


def native(i: int) -> dict:
    return {"id": i, "prompt": QUESTION.format(i=i, n=i % 997, v=i % 89 + 20), "answer": str(i % 1440), "level": i % 5}


def verl(i: int) -> dict:
    return {
        "data_source": "trains",
        "prompt": [{"role": "user", "content": native(i)["prompt"]}],
        "reward_model": {"style": "rule", "ground_truth": str(i % 1440)},
    }


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{options.format}"
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, options.rows))
        writer.start()
        writer.join()
        before, clock, cpu = peak_mib(), time.perf_counter(), time.process_time()
        (report,) = check_file(str(path), print)
        print(report.summary())
        seconds, busy = time.perf_counter() - clock, time.process_time() - cpu
        print(f"{path.stat().st_size / 2**20:.0f} MiB: {seconds:.1f} s on the clock, {busy:.1f} s of CPU time")
        print(f"peak memory {before:.0f} MiB before, {peak_mib():.0f} MiB after")


if __name__ == "__main__":
    main()
