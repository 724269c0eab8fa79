"""Experts that exist already: a later run takes them over at a checkpoint of the same trajectory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from copd.errors import CheckpointError, RecipeError
from copd.runs.checkpoint import Checkpoint, verify_checkpoint
from copd.runs.runlog import RUN_MANIFEST

DECIDES_EXPERTS = ("seed", "model", "branches", "sampling", "grpo", "optimizer", "verifiers", "reward")
"""The sections on which the steps of an expert depend; its length is not among them."""


def trajectory(recipe: Mapping[str, Any], base_sha256: Mapping[str, str], data_sha256: Mapping[str, Any]) -> str:
    """The hash of everything that decides how an expert develops: two runs with the same have the same experts."""
    decides = [{name: recipe[name] for name in DECIDES_EXPERTS}, dict(base_sha256), dict(data_sha256)]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def expert_checkpoint(run: Path, wanted: str, experts: Sequence[str], at_most: int) -> Checkpoint | None:
    """The newest whole checkpoint of `run` with at most `at_most` steps, all of them RLVR; None where there is none.

    Raises RecipeError where `run` is no run folder or its experts are of another trajectory.
    """
    path = run / RUN_MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["trajectory"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"experts.run: {path}: no manifest of a run: {error!r}") from error
    if found != wanted:
        raise RecipeError(
            f"experts.run: {run}: its experts developed otherwise; the base and the sections "
            f"{', '.join(DECIDES_EXPERTS)} must be the same"
        )
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            checkpoint = verify_checkpoint(folder)
        except CheckpointError:
            continue
        fits = checkpoint.step <= at_most and checkpoint.notes["only_rlvr"]
        if fits and set(experts) <= set(checkpoint.branches):
            return checkpoint
    return None
