"""The recipe by which models are compared: the one that is named, else that of the run in which they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from copd.errors import RecipeError, RunFolderError
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe, reread
from copd.runs.saved import recipe_of, run_of

BUILTIN = "builtin:"
ASKED = ("branches", "verifiers", "reward")
"""What decides which problems models are asked, and how the answers are graded."""


def compared_recipe(
    given: str | Path | Mapping[str, Any] | None,
    models: Sequence[str],
    changes: Sequence[str],
    tell: Callable[[str], None],
) -> Recipe:
    """The recipe whose problems models are asked, with changes.

    Without a `given` one it is that of the first run in which one of the models lies, and if there is none the demo.
    `tell` says which, unless all models ship with copd. Raises RecipeError for models of runs that ask other problems.
    """
    if given is not None:
        return load_recipe(given, changes)
    if all(model.startswith(BUILTIN) for model in models):
        return load_recipe("demo", changes)
    found = {folder: _recipe_in(folder) for folder in dict.fromkeys(map(run_of, models)) if folder is not None}
    if not found:
        tell("problems are the demo's digits, since no model lies in a run; --recipe names others")
        return load_recipe("demo", changes)
    (first, recipe), *others = found.items()
    for folder, other in others:
        if _asked(other) != _asked(recipe):
            raise RecipeError(
                f"--recipe: missing, and the runs {first} and {folder} ask other problems; name the recipe whose "
                "problems are asked"
            )
    tell(f"problems are those of the run {first}; --recipe names others")
    return load_recipe(recipe, changes)


def _recipe_in(folder: Path) -> dict[str, Any]:
    try:
        return reread(recipe_of(folder))
    except (RunFolderError, RecipeError) as error:
        reasons = "; ".join(str(error).splitlines())
        raise RecipeError(f"--recipe: missing, and that of the run {folder} cannot be read: {reasons}") from error


def _asked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe decides the problems. On which device a branch trained does not."""
    tasks = {name: branch["task"] for name, branch in recipe["branches"].items()}
    return {**{name: recipe[name] for name in ASKED}, "branches": tasks}
