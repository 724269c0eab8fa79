"""A model of a run, named: of a checkpoint, or a folder inside the run; and its final table. No tensor is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from copd.errors import RunFolderError, wrong_in
from copd.measure.evaluate import Accuracy, accuracies
from copd.runs.checkpoint import CHECKPOINTS, Checkpoint, latest_checkpoint, step_folders, verify_checkpoint
from copd.runs.runlog import METRICS, RUN_MANIFEST, read_lines
from copd.runs.validations import Best

LAST, BEST = "last", "best"
"""Words for a checkpoint: the newest one, and that of the best validation."""
STEP = rf"[0-9]{{1,12}}|{LAST}|{BEST}"
AT_STEP = re.compile(rf"(?P<folder>.+)@(?P<step>{STEP})", re.DOTALL)
BRANCHES = "branches"


class Reference(NamedTuple):
    """RUN@STEP, which is the run's product, or RUN/branches/NAME@STEP. `step` is a number, last or best."""

    run: Path
    branch: str | None
    step: str


def reference_of(model: str) -> Reference | None:
    """The model of a checkpoint that these words name; None for everything else, such as a folder that is there."""
    named = None if os.path.isdir(model) else AT_STEP.fullmatch(model)
    if named is None:
        return None
    folder = Path(named["folder"])
    branch = folder.name if folder.parent.name == BRANCHES else None
    return Reference(folder.parent.parent if branch else folder, branch, named["step"])


def run_of(model: str) -> Path | None:
    """The folder of the run that a model lies in, by its folder or its checkpoint; None if it lies in none."""
    reference = reference_of(model)
    start = reference.run if reference else Path(model)
    return next((folder for folder in (start, *start.parents, *start.resolve().parents) if _is_run(folder)), None)


def recipe_of(run: Path) -> Mapping[str, Any]:
    """The recipe of a run as its manifest holds it. Raises RunFolderError for a folder that is no run."""
    recipe = _recipe_in(run)
    if recipe is None:
        raise RunFolderError(f"{run}: not a run folder ({RUN_MANIFEST} is missing or damaged); give one of copd train")
    return recipe


def _is_run(folder: Path) -> bool:
    """Whether a folder has the manifest of a run, or a damaged one, of which `recipe_of` tells."""
    return (folder / RUN_MANIFEST).is_file() and (_recipe_in(folder) is not None or not manifest_of(folder))


def _recipe_in(folder: Path) -> Mapping[str, Any] | None:
    manifest = manifest_of(folder)
    recipe = manifest.get("recipe")
    return recipe if isinstance(recipe, dict) else None


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """The manifest of a run; empty for a folder that is none."""
    try:
        manifest = json.loads((folder / RUN_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def checkpoint_of(run: Path, step: str, product: str | None) -> Checkpoint:
    """The checkpoint of a run after `step` steps, the newest, or the best by the `product`, checked by its sums.

    Raises RunFolderError if there is no such checkpoint, naming those there are, and CheckpointError for a damaged one.
    """
    there = step_folders(run / CHECKPOINTS)
    named = "none" if not there else f"checkpoints after {', '.join(map(str, sorted(there)))} steps"
    if step == LAST:
        found = latest_checkpoint(run / CHECKPOINTS)
        if found is None:
            raise RunFolderError(
                f"{run}: has no checkpoint yet; the first one comes after checkpoint.every_steps steps"
            )
        return found
    steps = best_step(run, product) if step == BEST else int(step)
    if steps not in there:
        raise RunFolderError(f"{run}: has no checkpoint after {steps} steps; there are {named}")
    return verify_checkpoint(there[steps])


def best_step(run: Path, product: str | None) -> int:
    """The number of steps of the best checkpoint, by the validations that the run has noted.

    Raises RunFolderError if the run keeps none, or has not validated after a step, or if its record is damaged.
    """
    if not recipe_of(run).get("checkpoint", {}).get("keep_best"):
        raise RunFolderError(f"{run}: keeps no best checkpoint; train with checkpoint.keep_best=true, or give a number")
    best, path = Best(product), run / METRICS
    try:
        for event in read_lines(path):
            best.see(event)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path}: cannot be read as the record of a run: {wrong_in(error)}") from error
    if best.steps is None:
        raise RunFolderError(f"{run}: has not validated its models after a step yet; give a number of steps, or {LAST}")
    return best.steps


def result_of(folder: Path) -> list[Accuracy]:
    """The final table of a run; empty if the run is not finished. Raises RunFolderError for a damaged record."""
    path = folder / METRICS
    records = read_lines(path) if path.is_file() else iter(())
    try:
        return next((accuracies(record["table"]) for record in records if record["event"] == "result"), [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path}: cannot be read as the record of a run: {wrong_in(error)}") from error
