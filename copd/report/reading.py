"""Reads a run folder for a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from copd.errors import RunFolderError, wrong_in
from copd.measure.compare import Difference, differences
from copd.measure.evaluate import AVERAGE, Accuracy, Answers, accuracies
from copd.runs.runlog import ANSWERS, METRICS, RUN_MANIFEST, SAMPLES, read_lines
from copd.types import BASE, MERGED

Spent = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Costs by branch and phase: rollouts, tokens, seconds."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run, finished or not: its manifest and every line that it has written."""

    folder: Path
    label: str
    manifest: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    answers: Sequence[Answers]

    def events(self, name: str) -> list[Mapping[str, Any]]:
        return [record for record in self.records if record["event"] == name]

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.manifest["recipe"]

    @property
    def command(self) -> str:
        """The command that began the run; empty where none did."""
        return self.manifest.get("command") or ""

    @property
    def method(self) -> str:
        return self.recipe["method"]

    @property
    def finished(self) -> bool:
        return bool(self.events("result"))

    @property
    def steps(self) -> int:
        """Steps that all branches have done, as far as the record goes."""
        return max((record["step"] for record in self.records), default=-1) + 1

    @cached_property
    def table(self) -> list[Accuracy]:
        """The final table; for an unfinished run, the last validation of its branches."""
        tables = self.events("result") or self.events("accuracy")
        return accuracies(tables[-1]["table"]) if tables else []

    @cached_property
    def models(self) -> list[str]:
        return list(dict.fromkeys(cell.model for cell in self.table))

    @cached_property
    def capabilities(self) -> list[str]:
        """The capabilities of the table, without their average."""
        return [
            capability for capability in dict.fromkeys(cell.capability for cell in self.table) if capability != AVERAGE
        ]

    @property
    def split(self) -> str:
        """Which problems the final table is about: test or validation."""
        return self.recipe.get("evaluation", {}).get("split", "test")

    @property
    def branches(self) -> list[str]:
        return [model for model in self.models if model not in (BASE, MERGED)]

    @property
    def products(self) -> list[str]:
        """The products of the run: the model that its record names, else the merged model or all branches."""
        product = (self.ledger or {}).get("product", MERGED)
        return [product] if product in self.models else self.branches

    def cell(self, model: str, capability: str = AVERAGE) -> Accuracy:
        return next(cell for cell in self.table if (cell.model, cell.capability) == (model, capability))

    def compared_with(self, model: str) -> dict[tuple[str, str], Difference]:
        """Differences of all other models to this one by (model, capability); empty if no answers were recorded."""
        return {(d.model, d.capability): d for d in differences(self.answers, model)} if self.finished else {}

    @property
    def ledger(self) -> Mapping[str, Any] | None:
        ledgers = self.events("ledger")
        return ledgers[-1] if ledgers else None

    @property
    def adopted(self) -> Mapping[str, Any]:
        """The cost of experts taken over from another run, in the form of the ledger, which includes it."""
        taken = self.events("experts")
        return {"spent": {}, "critical_path": {}, **(taken[-1] if taken else {})}

    @property
    def seconds(self) -> float:
        """Wall time, summed over the processes that made the run. Work that a crash undid does not count."""
        total = last = 0.0
        for record in self.records:
            total += last if record["seconds"] < last else 0.0
            last = record["seconds"]
        return total + last

    @property
    def made_rollouts(self) -> int:
        """The rollouts of all branches, those of experts that were taken over included. Needs the ledger."""
        assert self.ledger is not None
        return sum(int(spent["rollouts"]) for phases in self.ledger["spent"].values() for spent in phases.values())

    def rollouts_after(self) -> Callable[[int], float]:
        """A function from steps to the rollouts that all branches had sampled. Needs the ledger of a finished run.

        The steps of a phase cost alike. A branch may sample in a phase that does not train it.
        """
        assert self.ledger is not None
        adopted: Spent = self.adopted["spent"]
        phase_of = {update["step"]: update["phase"] for update in self.events("update")}
        steps, cost = Counter(phase_of.values()), Counter[str]()
        for branch, phases in self.ledger["spent"].items():
            for phase, spent in phases.items():
                cost[phase] += spent["rollouts"] - adopted.get(branch, {}).get(phase, {}).get("rollouts", 0)
        after = [0.0] * (self.steps + 1)
        for taken in self.events("experts"):
            after[taken["step"] + 1] += sum(s["rollouts"] for phases in adopted.values() for s in phases.values())
        for step, phase in phase_of.items():
            after[step + 1] += cost[phase] / steps[phase]
        for step in range(self.steps):
            after[step + 1] += after[step]
        return after.__getitem__


def read_run(folder: Path) -> RunRecord:
    """Read a run folder, finished or not. Raises RunFolderError naming a missing or damaged file."""
    path = folder / RUN_MANIFEST
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        lines = {}
        for name in (METRICS, SAMPLES, ANSWERS):
            path = folder / name
            lines[name] = [dict(line) for line in read_lines(path)] if path.is_file() else []
        run = RunRecord(
            folder,
            folder.resolve().name,
            manifest,
            lines[METRICS],
            lines[SAMPLES],
            [Answers.from_record(record) for record in lines[ANSWERS]],
        )
        if not run.events("behaviour"):
            if any((folder / made).is_dir() for made in ("merged", "branches")):
                lost = "holds no measures" if (folder / METRICS).is_file() else "is missing"
                raise RunFolderError(f"{folder / METRICS}: {lost}, so no report can be made; its models are there")
            raise RunFolderError(f"{folder}: nothing has been measured yet; its report can be made a little later")
        return run
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunFolderError(
            f"{folder}: not a run folder ({path.name} is missing); give one that copd train made"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read as the record of a run: {wrong_in(error)}") from error


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Several runs, with the shortest labels that tell them apart."""
    runs = [read_run(folder) for folder in folders]
    paths = [run.folder.resolve() for run in runs]
    if twice := [run.folder for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]:
        raise RunFolderError(f"{twice[0]}: the run folder is given twice; give each once")
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(paths):
        parts += 1
    return [replace(run, label="/".join(path.parts[-parts:])) for run, path in zip(runs, paths, strict=True)]
