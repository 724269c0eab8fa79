"""Co-Evolving Policy Distillation (arXiv 2604.27083): several reasoning skills into one model.

Read the package in this order: `types` (the objects that travel), `algorithm` (Algorithm 1) and `phases` (its phases),
`maths/` (every equation), `branches/branch` (a branch puts them together), `model/` (a model as a thing), `compute/`
(how it is computed), `commands/train` (recipe to run folder).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copd.recipe.model import Recipe

__version__ = "0.1.0"


def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
) -> Path:
    """Run a recipe to the end and return its run folder (`copd.commands.train.train`).

    `recipe` may also be a YAML file, the name of a builtin recipe, or nested mappings.
    """
    from copd.commands.train import train as run
    from copd.recipe.model import Recipe
    from copd.recipe.reading import load_recipe

    return run(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), out, resume=resume, force=force)
