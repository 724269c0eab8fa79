"""The manifest of a run: what ties its folder to one recipe, one base and one set of files."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from copd.assemble.assembled import Assembled
from copd.assemble.sampling import versions_of_sampler
from copd.commands.export import base_sums
from copd.rewards.grading import user_verifiers
from copd.runs.experts import trajectory


def manifest_of(made: Assembled, command: str | None = None) -> dict[str, Any]:
    """The manifest of a new run: recipe, order of branches, hashes, versions, and the command that the user typed."""
    recipe = made.recipe
    sums = base_sums(recipe)
    data, asked = made.fingerprints, made.evaluation.model_dump(mode="json")
    settings = {**recipe.model_dump(mode="json"), "evaluation": asked}
    verifiers = {recipe.verifiers[user.name]: user.sha256 for user in user_verifiers(recipe.verifiers)}
    return {
        "command": command,
        "recipe": settings,
        "branch_order": list(recipe.branches),
        "seed": recipe.seed,
        "base_sha256": sums,
        "data_sha256": data,
        "verifier_sha256": verifiers,
        "trajectory": trajectory(settings, sums, data, verifiers),
        "versions": {name: version(name) for name in ("copd", "torch", "transformers")} | versions_of_sampler(recipe),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
