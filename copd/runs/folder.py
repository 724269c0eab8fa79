"""A run folder is claimed by one recipe: what a fresh run, and what a resumed one, may find in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from copd.errors import CheckpointError, RecipeError
from copd.files import replace_text
from copd.runs.lifecycle import LOCK
from copd.runs.runlog import RUN_MANIFEST

RESUMED = ("recipe", "branch_order", "base_sha256", "data_sha256", "verifier_sha256")
"""What must not change between the parts of a run."""


def occupied(folder: Path) -> bool:
    return folder.exists() and any(path.name != LOCK for path in folder.iterdir())


def check_folder(
    folder: Path, manifest: Mapping[str, Any], resume: bool, reread: Callable[[Any], dict[str, Any]]
) -> None:
    """The run folder must be new or empty; to resume, it may hold a run of the same recipe, base and data.

    `reread` reads a recipe as it stands in a manifest: fields that it lacks, since it is older than they, take their
    defaults. Raises CheckpointError where it cannot be read any more, or where something is not the same.
    """
    path = folder / RUN_MANIFEST
    if resume and path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            before = {key: found[key] for key in RESUMED}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged, cannot resume: {error!r}") from error
        try:
            before["recipe"] = reread(before["recipe"])
        except RecipeError as error:
            reasons = "; ".join(str(error).splitlines())
            raise CheckpointError(
                f"{path}: cannot resume: this copd cannot read the run's recipe: {reasons}"
            ) from error
        for key in RESUMED:
            if before[key] != manifest[key]:
                raise CheckpointError(f"{folder}: cannot resume: {_difference(key, before[key], manifest[key])}")
    elif occupied(folder):
        hint = f"it holds no {RUN_MANIFEST}" if resume else "--resume goes on with the run in it"
        raise RecipeError(f"--out {folder}: is not empty; give another folder ({hint})")


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the run folder, and its manifest where there is none yet."""
    path = folder / RUN_MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            replace_text(path, json.dumps(manifest, indent=1))
    except OSError as error:
        raise RecipeError(f"--out {folder}: cannot be written: {error}") from error


def _difference(path: str, before: Any, now: Any) -> str:
    """The first value in which two nested mappings differ, with its path."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in {**before, **now} if before.get(k) != now.get(k))
        return _difference(f"{path}.{key}", before.get(key), now.get(key))
    return f"{path} was {before!r} and is now {now!r}"
