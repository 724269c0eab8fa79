"""The manifest of a run: what ties its folder to one recipe, one base and one set of files."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from copd.assemble.assembled import Assembled
from copd.assemble.plan import Plan, make_plan
from copd.assemble.sampling import versions_of_sampler
from copd.commands.export import base_sums
from copd.errors import CheckpointError, RecipeError
from copd.recipe.reading import make_recipe, reread
from copd.runs.experts import decides_experts, trajectory
from copd.runs.folder import saved_recipe


def new_manifest(made: Assembled, command: str | None = None) -> dict[str, Any]:
    """The manifest of a new run: recipe, order of branches, hashes, versions, and the command that the user typed."""
    recipe = made.recipe
    sums = base_sums(recipe)
    data, asked = made.fingerprints, made.evaluation.model_dump(mode="json")
    settings = {**recipe.model_dump(mode="json"), "evaluation": asked}
    code = {source: made.code[field].sha256 for field, source in recipe.own_code.items()}
    of_experts = {recipe.own_code[field]: made.code[field].sha256 for field in made.code if decides_experts(field)}
    return {
        "command": command,
        "recipe": settings,
        "branch_order": list(recipe.branches),
        "seed": recipe.seed,
        "base_sha256": sums,
        "data_sha256": data,
        "code_sha256": code,
        "trajectory": trajectory(settings, sums, data, of_experts),
        "versions": {name: version(name) for name in ("copd", "torch", "transformers")} | versions_of_sampler(recipe),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def check_done(folder: Path, plan: Plan, step: int) -> None:
    """Check that the steps that a run has made fit a changed plan.

    Branches rest while a student is taught. The student accepts their scores only at the version that the plan gives.
    Raises CheckpointError if the plan gives a branch another number of updates in these steps than it has made.
    """
    try:
        before = make_plan(make_recipe(saved_recipe(folder, reread)))
    except (RecipeError, CheckpointError):
        return
    made, due = (each.schedule.updates_before(step) for each in (before, plan))
    if made != due and step <= plan.schedule.steps and before.branches == plan.branches:
        raise CheckpointError(
            f"{folder}: schedule, merge or budget: in the {step} steps that are done each branch has made {made} "
            f"updates, and the changed recipe gives each {due}; keep the steps that are done as they were, or begin "
            "a new run"
        )
