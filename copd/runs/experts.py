"""Reuse of experts: a run takes over the experts of an earlier run at a checkpoint of the same trajectory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from copd.errors import CheckpointError, RecipeError, wrong_in
from copd.runs.changes import differences
from copd.runs.checkpoint import CHECKPOINTS, Checkpoint, step_folders, verify_checkpoint
from copd.runs.given import wherever_given
from copd.runs.runlog import RUN_MANIFEST

DECIDES_EXPERTS = (
    "seed",
    "model",
    "branches",
    "sampling",
    "grpo",
    "optimizer",
    "verifiers",
    "reward",
    "lora",
    "mixed",
)
"""The sections on which an expert's steps depend. The number of steps does not belong to them."""
BESIDE_THE_RECIPE = ("base_sha256", "data_sha256", "code_sha256", "branch_order")
"""What else of a manifest decides how experts develop; the order of branches with method mixed only."""
MOST_TOLD = 3
"""So many differences are told at most."""
DECIDE_NOTHING = ("allow_plain_path", "export_dtype")
"""Fields of the section `model` that decide no number of a run."""


def decides_experts(field: str) -> bool:
    """Whether experts depend on the user's code that a field of the recipe names. A merge or tracker comes after."""
    return field.partition(".")[0] in DECIDES_EXPERTS


def trajectory(
    recipe: Mapping[str, Any],
    base_sha256: Mapping[str, str],
    data_sha256: Mapping[str, Any],
    code_sha256: Mapping[str, str],
) -> str:
    """The hash of everything that decides how experts develop. Runs with the same hash have the same experts.

    `code_sha256`: of the user's code for which `decides_experts` holds.

    The model of `mixed` learns the tasks in the order of the branches. For other experts the order decides nothing.
    """
    files = [dict(sums) for sums in (base_sha256, data_sha256, code_sha256)]
    order = [list(recipe["branches"])] if recipe["method"] == "mixed" else []
    model = {name: value for name, value in recipe["model"].items() if name not in DECIDE_NOTHING}
    decides = [{name: recipe[name] for name in DECIDES_EXPERTS} | {"model": model}, *files, *order]
    return hashlib.sha256(json.dumps(wherever_given(decides), sort_keys=True).encode()).hexdigest()


def _other(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What may have let the experts of two runs develop otherwise."""
    here, there = ({name: each["recipe"].get(name) for name in DECIDES_EXPERTS} for each in (manifest, wanted))
    pairs = {f"recipe.{name}": (here[name], there[name]) for name in DECIDES_EXPERTS}
    pairs |= {key: (manifest.get(key), wanted.get(key)) for key in BESIDE_THE_RECIPE}
    found = [change for key, pair in pairs.items() for change in differences(key, *map(wherever_given, pair))]
    decide = [change for change in found if not change.startswith(tuple(f"recipe.model.{n} " for n in DECIDE_NOTHING))]
    more = [f"{len(decide) - MOST_TOLD} more"] if len(decide) > MOST_TOLD else []
    return [*decide[:MOST_TOLD], *more] or ["another version of copd made them"]


def expert_checkpoint(
    run: Path,
    wanted: Mapping[str, Any],
    experts: Sequence[str],
    at_most: int,
    warn: Callable[[str], None],
    *,
    replay: int = 0,
) -> Checkpoint:
    """The newest whole checkpoint of `run` with at most `at_most` steps, all of them RLVR. Warns of damaged ones.

    `wanted`: the manifest of the run that takes them over.

    Raises RecipeError if `run` is not a run folder, if its experts have another trajectory or none or keep fewer
    batches than `replay`, or if no checkpoint fits.
    """
    path = run / RUN_MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, kept = manifest["trajectory"], manifest["recipe"]["opd"].get("replay", 0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecipeError(f"experts.run: {path}: no manifest of a run: {wrong_in(error)}") from error
    if found is None:
        raise RecipeError(
            f"experts.run: {run}: was changed by --force, so its experts belong to no single recipe; give a run that "
            "was not"
        )
    if found != wanted["trajectory"]:
        raise RecipeError(f"experts.run: {run}: its experts developed otherwise: {'; '.join(_other(manifest, wanted))}")
    if kept < replay:
        raise RecipeError(
            f"experts.run: {run}: its experts keep {kept} batches, opd.replay is {replay}; train them with "
            f"opd.signal=forward_kl opd.replay={replay}"
        )
    folders = step_folders(run / CHECKPOINTS)
    for step in sorted((step for step in folders if step <= at_most), reverse=True):
        try:
            checkpoint = verify_checkpoint(folders[step])
        except CheckpointError as error:
            warn(f"experts.run: passed over: {error}")
            continue
        if checkpoint.notes["only_rlvr"] and set(experts) <= set(checkpoint.branches):
            return checkpoint
    raise RecipeError(
        f"experts.run: {run}: no whole checkpoint of {', '.join(experts)} after at most {at_most} RLVR steps and "
        f"nothing else; found steps {', '.join(map(str, sorted(folders))) or 'none'}. A run of expert or merge_only "
        "with the same schedule and budget keeps one; in others checkpoint.every_steps and checkpoint.keep_last decide"
    )
