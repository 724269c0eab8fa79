"""Co-Evolving Policy Distillation (arXiv 2604.27083): several reasoning skills into one model.

Read the package in this order: `types` (the objects that travel), `algorithm` (Algorithm 1) and `phases` (its phases),
`maths/` (every equation), `branches/branch` (a branch puts them together), `model/` (a model as a thing), `compute/`
(how it is computed), `commands/train` (recipe to run folder).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copd.commands.python import Evaluation, Run
    from copd.errors import CopdError
    from copd.recipe.model import Recipe
    from copd.recipe.reading import load_recipe

    Source = Recipe | str | Path | Mapping[str, Any]
    Place = str | os.PathLike[str]

__version__ = "0.1.0"
__all__ = ["CopdError", "Recipe", "Run", "compare", "evaluate", "load_recipe", "merge", "train"]
LATE = {
    "CopdError": "copd.errors",
    "Recipe": "copd.recipe.model",
    "load_recipe": "copd.recipe.reading",
    "Run": "copd.commands.python",
    "Evaluation": "copd.commands.python",
}
"""What is imported when it is first asked for, and from where, so that `import copd` loads no library."""


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module 'copd' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(LATE[name]), name)


def train(
    recipe: Source,
    out: Place | None = None,
    *,
    overrides: Sequence[str] = (),
    rows: Mapping[str, Any] | None = None,
    rewards: Mapping[str, str | Callable[..., Any]] | None = None,
    quiet: bool = False,
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Run a recipe to the end and return the run (`copd.commands.train.train` says what `out`, `resume`, `force` do).

    `recipe` may also be a YAML file, the name of a builtin recipe, or nested mappings; `overrides` change its fields,
    as section.key=value.

    `rows` has, by branch, a list of mappings or a table with `to_parquet`, such as a `datasets.Dataset`: rows for
    training, or a mapping of the splits train, validation, test to rows. They are written into the run folder, as
    `given/BRANCH-SPLIT.jsonl` or `.parquet`, and hashed and resumed like any file of rows. So paths of pictures in them
    need the task's `data_root`. They take the place of the files that the recipe names for the split.

    `rewards` has functions by the name that rows or a task give as `verifier`. Each must stand at the top level of a
    .py file, since processes load it from there; a lambda or a function of a notebook raises RecipeError. It may also
    be written as path/file.py:NAME.

    With `quiet` nothing is printed but warnings, by the logger "copd.commands.python".
    """
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the libraries are loaded
    from copd.commands import python

    return python.train(recipe, out, overrides, rows, rewards, quiet=quiet, resume=resume, force=force)


def evaluate(models: Sequence[Place], recipe: Source | None = None, *, overrides: Sequence[str] = ()) -> Evaluation:
    """Greedy accuracy and pass@k of models on a recipe's test problems, and each model's difference to the first.

    A model is a folder, such as `run.merged`, builtin:NAME, or ID@COMMIT of the Hugging Face Hub. Without a recipe the
    problems are those of the run in which a model lies, else the demo's. Raises RecipeError, DataError or
    ModelFolderError.
    """
    from copd.commands import python

    return python.evaluate(models, recipe, overrides)


def merge(
    branches: Sequence[Place],
    out: Place,
    *,
    method: str = "mean",
    base: Place | None = None,
    export_dtype: str | None = None,
    **settings: Any,
) -> Path:
    """Merge branches of one base into the new folder `out`, and return it.

    `method` is a merge method of a recipe, or path/file.py:NAME of a function of yours; `settings` are the method's
    fields, such as weights=(1, 2). Raises RecipeError, ModelFolderError, MergeError or WriteError.
    """
    from copd.commands import python

    return python.merge(branches, out, method, base, export_dtype, settings)


def compare(
    file: Place,
    out: Place,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    workers: int = 1,
    search: bool = False,
    tell: Callable[[str], None] = print,
) -> Path:
    """Train the arms of a comparison file over seeds at one budget, and return the page about them.

    With `search` the arms choose their settings instead, and the file of what they chose is returned. `workers` jobs
    run at once, and `tell` gets a line for each. Raises RecipeError for an unsound file, JobError if a job fails.
    """
    from copd.commands import python

    return python.compare(file, out, seeds, workers, search=search, tell=tell)
