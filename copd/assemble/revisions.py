"""Branches and tags of the hub that a recipe names, resolved to commits."""

from __future__ import annotations

from copd.errors import CopdError, DataError, ModelFolderError
from copd.model.folders import is_local
from copd.recipe.model import Recipe
from copd.recipe.task_sections import BranchSection, RowsTask
from copd.rows.hub import repository_of
from copd.system.files import HUB
from copd.system.hub import commit_of


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with a commit in the place of each branch or tag, as the hub has them now (`copd.system.hub`).

    A folder keeps its revision, which `model_folder` refuses. Raises ModelFolderError or DataError, naming the field,
    for one that cannot be resolved.
    """
    model = recipe.model
    if model.revision is not None and not is_local(model.path):
        try:
            model = model.model_copy(update={"revision": commit_of(model.path, model.revision, "model")})
        except CopdError as error:
            raise ModelFolderError(f"model.revision: {error}") from error
    branches = {name: _pinned(name, branch) for name, branch in recipe.branches.items()}
    if model == recipe.model and branches == recipe.branches:
        return recipe
    return recipe.model_copy(update={"model": model, "branches": branches})


def _pinned(name: str, branch: BranchSection) -> BranchSection:
    task = branch.task
    if not isinstance(task, RowsTask) or task.revision is None:
        return branch
    given = next(
        file for files in (task.train, task.validation, task.test) for file in files or () if file.startswith(HUB)
    )
    try:
        commit = commit_of(repository_of(given), task.revision, "dataset")
    except CopdError as error:
        raise DataError(f"branches.{name}.task.revision: {error}") from error
    return branch.model_copy(update={"task": task.model_copy(update={"revision": commit})})
