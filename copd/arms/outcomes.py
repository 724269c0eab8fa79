"""What is kept of a finished job: one small JSON file, from which all tables and figures are made."""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from copd.arms.jobs import Job
from copd.errors import RunFolderError, wrong_in
from copd.maths.intervals import pass_at_k
from copd.measure.evaluate import AVERAGE
from copd.report.reading import RunRecord, read_run
from copd.runs.folder import RESUMED
from copd.system.files import replace_text
from copd.types import MERGED, MIXED, STUDENT

Curve = list[tuple[float, dict[str, float]]]
SPENT = ("rollouts", "tokens_generated", "tokens_scored", "tokens_trained", "seconds", "critical_path_seconds")
"""What an outcome says of its cost."""


@dataclass(frozen=True)
class Outcome:
    """A finished job.

    right         model -> capability -> the problems answered right greedily, as bits in hexadecimal, first one first
    problems      capability -> digest of its problems, and how many there are
    sampled       model -> capability -> k -> pass@k
    curve         validation, of every branch: rollouts spent so far -> "MODEL/CAPABILITY" -> greedy accuracy
    behaviour     ends of phases: step, phase, overlap at the largest k and symmetric KL by student and teacher
    spent         rollouts, tokens generated, scored and trained on, seconds of branches, and of the critical path
    made_of       a hash of what the run was made of: base, rows, own code, versions; empty of older outcomes
    """

    arm: str
    seed: int
    account: str
    fingerprint: str
    command: str
    products: tuple[str, ...]
    rollouts: int
    right: dict[str, dict[str, str]]
    problems: dict[str, tuple[str, int]]
    sampled: dict[str, dict[str, dict[str, float]]]
    curve: Curve
    behaviour: list[dict[str, Any]]
    spent: dict[str, float]
    made_of: str = ""

    def greedy_P(self, model: str, capability: str) -> Tensor:
        """1 where the model's greedy answer is right. [P] float64."""
        return bits(self.right[model][capability], self.problems[capability][1])

    def accuracy(self, capability: str) -> float:
        """Greedy accuracy of the product in a capability, or of the experts, each in its own; or their average."""
        if capability == AVERAGE:
            return sum(self.accuracy(each) for each in self.problems) / len(self.problems)
        return float(self.product_P(capability).mean())

    def product_P(self, capability: str) -> Tensor:
        """`greedy_P` of the product; of experts that are no single model, that of the capability's own."""
        return self.greedy_P(self.model_for(capability), capability)

    def model_for(self, capability: str) -> str:
        """The model that answers for the arm in a capability: its product, or the capability's own expert."""
        return self.products[0] if len(self.products) == 1 else capability


def outcome_of(job: Job, folder: Path) -> Outcome:
    """The outcome of a finished run. Raises RunFolderError if the run is not finished or its record damaged."""
    run = read_run(folder)
    if not run.finished or run.ledger is None:
        raise RunFolderError(f"{folder}: is not a finished run")
    right: dict[str, dict[str, str]] = {}
    sampled: dict[str, dict[str, dict[str, float]]] = {}
    problems: dict[str, tuple[str, int]] = {}
    for a in run.answers:
        right.setdefault(a.model, {})[a.capability] = hexadecimal(a.greedy_P)
        problems[a.capability] = (a.problems, len(a.greedy_P))
        values = {
            str(k): float(pass_at_k(a.sampled_P, a.samples, k).mean()) for k in run.recipe["evaluation"]["pass_at"]
        }
        sampled.setdefault(a.model, {})[a.capability] = values
    return Outcome(
        job.arm or "",
        job.seed,
        job.account,
        job.fingerprint,
        job.command,
        tuple(run.products),
        run.ledger["planned_rollouts"],
        right,
        problems,
        sampled,
        _curve(run),
        _behaviour(run),
        _spent(run.ledger),
        made_of(run.manifest),
    )


def made_of(manifest: Mapping[str, Any]) -> str:
    """A hash of what a run is made of besides its recipe, from the run's manifest."""
    decides = {name: manifest.get(name) for name in RESUMED if name not in ("recipe", "branch_order")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _curve(run: RunRecord) -> Curve:
    after = run.rollouts_after()
    return [
        (
            after(event["step"] + 1),
            {f"{c['model']}/{c['capability']}": round(c["greedy"]["value"], 4) for c in event["table"]},
        )
        for event in run.events("accuracy")
    ]


def _behaviour(run: RunRecord) -> list[dict[str, Any]]:
    points = run.events("behaviour")
    k = max(points[0]["overlap"], key=int)
    return [
        {"step": p["step"], "phase": p["phase"], "overlap": _rounded(p["overlap"][k])}
        | {"symmetric_kl": _rounded(p["symmetric_kl"])}
        for p in points
    ]


def _rounded(matrix: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    return {
        student: {teacher: None if value is None else round(value, 5) for teacher, value in row.items()}
        for student, row in matrix.items()
    }


def _spent(ledger: Mapping[str, Any]) -> dict[str, float]:
    counts = [spent for phases in ledger["spent"].values() for spent in phases.values()]
    *names, of_all, of_path = SPENT
    totals = {name: sum(spent[name] for spent in counts) for name in names}
    seconds = sum(value for spent in counts for name, value in spent.items() if name.endswith("_seconds"))
    path = sum(ledger["critical_path"].values())
    return {**totals, of_all: round(seconds, 1), of_path: round(path, 1)}


def mean_of_pairs(point: Mapping[str, Any], measure: str) -> float | None:
    """The mean of a measure of behaviour over all pairs of branches at one point; None where there is no pair."""
    values = [
        value
        for student, row in point[measure].items()
        for teacher, value in row.items()
        if student != teacher and value is not None and not {student, teacher} & {MERGED, STUDENT, MIXED}
    ]
    return fmean(values) if values else None


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome, whole or not at all. One of other settings that is there is kept as former-...."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and (former := read_outcome(path).fingerprint) != outcome.fingerprint:
        replace_text(path.with_name(f"former-{former}-{path.name}"), path.read_text(encoding="utf-8"))
    replace_text(path, json.dumps(asdict(outcome), indent=1) + "\n")


def read_outcome(path: Path) -> Outcome:
    """Read an outcome. Raises RunFolderError naming a damaged file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        problems = {name: (digest, int(count)) for name, (digest, count) in record["problems"].items()}
        curve = [(float(at), dict(values)) for at, values in record["curve"]]
        outcome = Outcome(**{**record, "products": tuple(record["products"]), "problems": problems, "curve": curve})
        _check(outcome)
        return outcome
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as the outcome of a job: {wrong_in(error)}") from error


def _check(outcome: Outcome) -> None:
    """Check that pages can be drawn from an outcome. Raises KeyError or ValueError for what is missing or wrong."""
    if not outcome.problems or not outcome.products:
        raise ValueError("no problems or no products are in it")
    if not all(isinstance(value, int) for value in (outcome.seed, outcome.rollouts)):
        raise ValueError(f"seed, rollouts: accepted: whole numbers, found {outcome.seed}, {outcome.rollouts}")
    for model, own in outcome.right.items():
        for name, digits in own.items():
            if len(digits) != math.ceil(outcome.problems[name][1] / 4) or not set(digits) <= set(string.hexdigits):
                raise ValueError(f"right.{model}.{name}: accepted: a hexadecimal digit for each four problems")
    for name in outcome.problems:
        for field in (outcome.right, outcome.sampled):
            _ = field[outcome.model_for(name)][name]
    _ = [outcome.spent[name] for name in SPENT], [(p["step"], p["phase"]) for p in outcome.behaviour]


BITS_OF = str.maketrans({f"{value:x}": f"{value:04b}" for value in range(16)})


def hexadecimal(right_P: Tensor) -> str:
    """Zeros and ones as hexadecimal digits, four problems each; the last digit is filled up with zeros."""
    padded = [int(x) for x in right_P.tolist()] + [0] * (-len(right_P) % 4)
    return "".join(f"{int(''.join(map(str, padded[i : i + 4])), 2):x}" for i in range(0, len(padded), 4))


def bits(digits: str, count: int) -> Tensor:
    """The result of `hexadecimal` for `count` problems as a tensor again. [P] float64."""
    return torch.tensor([int(bit) for bit in digits.translate(BITS_OF)[:count]], dtype=torch.float64)


def read_outcomes(folder: Path) -> list[Outcome]:
    """All outcomes in a folder and those below it, in the order of their paths."""
    return [read_outcome(path) for path in sorted(folder.rglob("seed-*.json"))]


def finished_by(jobs: Sequence[Job], results: Path) -> dict[str, Outcome]:
    """The outcomes that are there and of the same recipe, by their jobs' names. Jobs that only train experts have none.

    Raises RunFolderError naming a damaged file, or one that another job has written.
    """
    there = [(job, _own(job, results)) for job in jobs if job.arm and outcome_path(job, results).is_file()]
    return {job.name: outcome for job, outcome in there if outcome.fingerprint == job.fingerprint}


def _own(job: Job, results: Path) -> Outcome:
    path = outcome_path(job, results)
    found = read_outcome(path)
    if (found.account, found.arm, found.seed) != (job.account, job.arm, job.seed):
        raise RunFolderError(
            f"{path}: holds the outcome of {found.account}/{found.arm}/seed-{found.seed}; accepted: that of {job.name}"
        )
    return found


def outcome_path(job: Job, results: Path) -> Path:
    """Where the outcome of a job is."""
    return results / f"{job.name}.json"
