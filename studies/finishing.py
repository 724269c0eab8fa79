"""What finished models of the study can still become at the same rollouts in all, held against `one_cycle`.

    python studies/finishing.py [--seeds 4] [--out studies/conflict]

scaled            the experts' task vectors added to the base at one scale, the best of several on validation problems
scaled_student    the same with the student of `one_cycle` alone
last_mixed        `one_cycle` on 95 % of the rollouts, then mixed RLVR from its student on the rest

Runs of the comparison that are in OUT/runs are taken as they are, others are trained. Each piece is written to
OUT/finishing once, as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import copd
from copd.arms.comparison import read_comparison
from copd.arms.jobs import Job, jobs_of
from copd.arms.search import read_chosen
from copd.commands.merge import merge_models
from copd.measure.evaluate import Accuracy
from copd.recipe.merges import merge_grid
from copd.runs.runlog import RUN_MANIFEST
from copd.system.files import replace_text
from copd.types import MIXED

FILE = Path(__file__).parent / "conflict" / "main.yaml"
REFERENCE, EXPERTS = "one_cycle", "expert"
PIECES = ("scaled", "scaled_student", "last_mixed")
FIRST = 0.95
"""The share of the rollouts before the last stage."""
STEPS = 10
"""Scales are multiples of 1/STEPS, up to 2."""


def finished(job: Job, runs: Path) -> copd.Run:
    """The run of a job among those of the comparison; if it is not there it trains its own experts."""
    folder = job.folder(runs)
    changes = job.changes(runs) if (folder / RUN_MANIFEST).is_file() else job.overrides
    return copd.train(job.source, folder, overrides=changes, resume=True, quiet=True)


def scaled(models: Sequence[Path], job: Job, out: Path) -> tuple[Path, str]:
    """The merge of the models at the best scale, and which scale that is."""
    candidates = merge_grid({"method": "task_arithmetic"}, len(models), STEPS)
    shutil.rmtree(out, ignore_errors=True)
    chosen, _ = merge_models([str(model) for model in models], job.recipe.model.path, candidates, out, job.recipe)
    return out, f"scale {chosen.scale:g}"


def last_mixed(reference: Job, mixed: Job, out: Path) -> tuple[Path, str]:
    """The model of mixed RLVR from a student, and how the rollouts were shared out."""
    first = round(FIRST * reference.rollouts)
    last = reference.rollouts - first
    changes = [*reference.overrides, f"budget.rollouts={first}"]
    begun = copd.train(reference.source, out / "first", overrides=changes, resume=True, quiet=True)
    changes = [*mixed.overrides, f"budget.rollouts={last}", f"model.path={merged_of(begun)}", "schedule.cycles=1"]
    ended = copd.train(mixed.source, out / "rest", overrides=changes, resume=True, quiet=True)
    return ended.branches[MIXED], f"{first:,} rollouts, then {last:,}"


def piece(name: str, jobs: Mapping[str, Job], runs: Path, out: Path) -> tuple[Path, str]:
    """A model, made in `out`, and in words how; `runs` are those of the comparison."""
    match name:
        case "scaled":
            experts = jobs[EXPERTS]
            return scaled(list(finished(experts, runs).branches.values()), experts, out / "model")
        case "scaled_student":
            return scaled([student(jobs, runs)], jobs[REFERENCE], out / "model")
        case _:
            return last_mixed(jobs[REFERENCE], jobs[MIXED], out)


def student(jobs: Mapping[str, Job], runs: Path) -> Path:
    """The model that the pieces are held against."""
    return merged_of(finished(jobs[REFERENCE], runs))


def merged_of(run: copd.Run) -> Path:
    """The merged model of a run that makes one."""
    assert run.merged is not None
    return run.merged


def accuracies(table: Sequence[Accuracy], model: str) -> dict[str, float]:
    """Greedy accuracy by capability."""
    return {cell.capability: cell.greedy.value for cell in table if cell.model == model}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=FILE.parent)
    asked = parser.parse_args()
    comparison = read_comparison(asked.file)
    chosen = read_chosen(asked.file, comparison) if comparison.search else {}
    jobs = jobs_of(comparison, range(asked.seeds), chosen)
    for seed in range(asked.seeds):
        of_seed = {job.arm: job for job in jobs if job.seed == seed and job.arm}
        for name in PIECES:
            path = asked.out / "finishing" / f"{name}-{seed}.json"
            if not path.is_file():
                model, how = piece(name, of_seed, asked.out / "runs", path.with_suffix(""))
                both = [str(student(of_seed, asked.out / "runs")), str(model)]
                overrides = [*of_seed[REFERENCE].overrides, "evaluation.pass_at=[]"]
                table = copd.evaluate(both, comparison.recipe, overrides=overrides).table
                reference, own = (accuracies(table, each) for each in both)
                replace_text(path, json.dumps({"how": how, "accuracy": own, REFERENCE: reference}, indent=1) + "\n")
            print(path)


if __name__ == "__main__":
    main()
