"""A run folder belongs to one recipe. Checks of what a new run, and a resumed run, may find in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from copd.errors import ChangedRunError, CheckpointError, RecipeError, WriteError, wrong_in
from copd.runs.changes import differences
from copd.runs.experts import DECIDE_NOTHING
from copd.runs.given import GIVEN, wherever_given
from copd.runs.runlog import RUN_MANIFEST
from copd.runs.trackers import LEFT_BY_A_START
from copd.system.files import replace_text

RESUMED = ("recipe", "branch_order", "base_sha256", "data_sha256", "code_sha256", "versions")
"""What must not change when a run is resumed."""
MAY_CHANGE = (
    *(f"recipe.backend.{name} " for name in ("restarts", "place_minutes", "slow_minutes", "give_up_minutes")),
    *(f"recipe.model.{name} " for name in DECIDE_NOTHING),
    "recipe.trackers ",
)
"""Fields of a recipe that decide no number of the run."""
Reread = Callable[[Any], dict[str, Any]]
"""Reads a recipe from a manifest. Fields that are newer than the manifest take their defaults."""

FORCED = "--resume --force (from Python resume=True and force=True) goes on all the same, and records what changed"
"""The last line of a refusal."""

STARTED = rf"\.lock|\..+\.writing|{GIVEN}|{'|'.join(LEFT_BY_A_START)}"
"""Pattern of what a start leaves in a run folder: half-written files, rows that it was given, files of trackers."""


def occupied(folder: Path, besides: str = "") -> bool:
    """Whether a file has this name, or the folder holds anything whose name does not match the pattern `besides`."""
    return folder.is_file() or (
        folder.exists() and any(not re.fullmatch(besides, path.name) for path in folder.iterdir())
    )


def check_folder(
    folder: Path, manifest: Mapping[str, Any], resume: bool, reread: Reread, *, force: bool = False
) -> list[str]:
    """Check a run folder: it must be new or empty, or to resume hold a run of the same recipe, base, data and versions.

    Raises CheckpointError if the manifest cannot be read, and ChangedRunError if something differs. With `force` the
    differences are returned instead.
    """
    path = folder / RUN_MANIFEST
    if resume and path.is_file():
        before = _read(path)
        try:
            before["recipe"] = _reread(path, before["recipe"], reread)
        except CheckpointError:
            if not force:
                raise
        pairs = {key: (wherever_given(before[key]), wherever_given(manifest[key])) for key in RESUMED}
        found = [change for key, pair in pairs.items() for change in differences(key, *pair)]
        named = [tracker["kind"] for each in (before, manifest) for tracker in each["recipe"].get("trackers", ())]
        may_change = (*MAY_CHANGE, *(f"code_sha256.{kind} " for kind in named))
        changes = [change for change in found if not change.startswith(may_change)]
        if changes and not force:
            lines = [f"{folder}: cannot resume: {change}" for change in changes]
            raise ChangedRunError("\n".join([*lines, FORCED]))
        return changes
    check_free(folder, resume)
    return []


def run_folder(out: str | PathLike[str] | None, method: str, seed: int) -> Path:
    """The folder of a run: `out`, by default runs/METHOD-seedSEED."""
    return Path(out) if out else Path("runs") / f"{method}-seed{seed}"


def check_free(folder: Path, resume: bool) -> None:
    """Raise RecipeError if the folder holds anything but what a start leaves there, so that no run can begin in it."""
    if folder.is_file():
        raise RecipeError(f"--out {folder}: is a file; accepted: a new or an empty folder")
    if occupied(folder, besides=STARTED):
        hint = f"it holds no {RUN_MANIFEST}" if resume else "--resume goes on with the run in it"
        raise RecipeError(f"--out {folder}: is not empty; give another folder ({hint})")


def saved_recipe(folder: Path, reread: Reread) -> dict[str, Any]:
    """The recipe of the run in a folder.

    Raises RecipeError if there is no run, and CheckpointError if its recipe cannot be read.
    """
    path = folder / RUN_MANIFEST
    if not path.is_file():
        raise RecipeError(
            f"--out {folder}: holds no run that could go on ({RUN_MANIFEST} is missing); name a recipe to begin one"
        )
    return _reread(path, _read(path)["recipe"], reread)


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the run folder, and its manifest if there is none yet. Raises WriteError if they cannot be written."""
    path = folder / RUN_MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--out {folder}: cannot be written: {error}") from error
    if not path.is_file():
        replace_text(path, json.dumps(manifest, indent=1))


def record_forced(folder: Path, manifest: Mapping[str, Any], after_step: int, changes: Sequence[str]) -> None:
    """Replace the manifest of a run that goes on after changes, and add the changes to its `forced`.

    The steps of such a run belong to no single recipe, unless it has made none before the changes. So its manifest
    loses the trajectory, and no other run takes over its branches as experts. Raises WriteError if the manifest cannot
    be written.
    """
    path = folder / RUN_MANIFEST
    forced = [*_read(path).get("forced", []), {"after_step": after_step, "changes": list(changes)}]
    kept = None if after_step else manifest["trajectory"]
    replace_text(path, json.dumps({**manifest, "trajectory": kept, "forced": forced}, indent=1))


def _read(path: Path) -> dict[str, Any]:
    """The manifest of a run. Raises CheckpointError if it is damaged or lacks something that must not change."""
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        if "verifier_sha256" in manifest:  # so it was called while verifiers alone were a user's code
            manifest["code_sha256"] = manifest.pop("verifier_sha256")
        if lacking := [key for key in RESUMED if key not in manifest]:
            raise KeyError(lacking[0])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, cannot resume: {wrong_in(error)}") from error
    return manifest


def _reread(path: Path, recipe: Any, reread: Reread) -> dict[str, Any]:
    try:
        return reread(recipe)
    except RecipeError as error:
        reasons = "; ".join(str(error).splitlines())
        raise CheckpointError(f"{path}: cannot resume: this copd cannot read the run's recipe: {reasons}") from error
