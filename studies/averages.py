"""Averages of weights that cost no rollouts: of one run's last checkpoints, and of runs with different seeds.

    python studies/averages.py [--seeds 4] [--out studies/conflict/averages]

Mixed RLVR as the arm `mixed` of studies/conflict/main.yaml trains it. The mean of the models after TRAJECTORY of its
steps is held against its last model, seed by seed; the mean of all seeds' last models costs as many times the rollouts.
Each comparison is written to OUT once, as JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import copd
from copd.arms.comparison import read_comparison
from copd.arms.jobs import Job, jobs_of
from copd.arms.search import read_chosen
from copd.assemble.plan import make_plan
from copd.system.files import replace_text
from copd.types import MIXED

FILE = Path(__file__).parent / "conflict" / "main.yaml"
TRAJECTORY = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the run whose models are averaged."""


def checkpoints(job: Job) -> list[int]:
    """The numbers of steps after which a model of the trajectory is kept."""
    steps = make_plan(job.recipe).schedule.steps
    return [round(share * steps) for share in TRAJECTORY]


def trained(job: Job, runs: Path) -> Path:
    """The run of one seed, with the checkpoints that are averaged."""
    folder = runs / f"seed-{job.seed}"
    kept = f"checkpoint.keep_at={json.dumps(checkpoints(job))}"
    copd.train(job.source, folder, overrides=[*job.overrides, kept], resume=True, quiet=True)
    return folder


def compared(path: Path, models: list[str], job: Job) -> None:
    """Write how the mean of models does on the test problems against the last of them, unless that is there."""
    if not path.is_file():
        mean = path.with_suffix(".model")
        if not mean.is_dir():
            copd.merge(models, mean)
        found = copd.evaluate([models[-1], str(mean)], job.source, overrides=job.overrides)
        names = {models[-1]: "last", str(mean): "mean"}
        table = [{**cell.as_record(), "model": names[cell.model]} for cell in found.table]
        leads = [{**asdict(lead), "model": "mean", "against": "last"} for lead in found.differences]
        replace_text(
            path, json.dumps({"models": len(models), "accuracies": table, "differences": leads}, indent=1) + "\n"
        )
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=FILE.parent / "averages")
    asked = parser.parse_args()
    comparison = read_comparison(asked.file)
    chosen = read_chosen(asked.file, comparison) if comparison.search else {}
    jobs = [job for job in jobs_of(comparison, range(asked.seeds), chosen) if job.arm == MIXED]
    runs = {job.seed: trained(job, asked.out / "runs") for job in jobs}
    for job in jobs:
        models = [f"{runs[job.seed]}@{steps}" for steps in checkpoints(job)]
        compared(asked.out / f"trajectory-{job.seed}.json", models, job)
    compared(asked.out / "seeds.json", [f"{folder}@last" for folder in runs.values()], jobs[-1])


if __name__ == "__main__":
    main()
