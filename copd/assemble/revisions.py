"""Branches and tags of the hub that a recipe names, resolved to commits."""

from __future__ import annotations

import re
from typing import TypeGuard

from copd.errors import CopdError, DataError, ModelFolderError
from copd.model.folders import is_local
from copd.recipe.model import Recipe
from copd.recipe.task_sections import RowsTask
from copd.rows.hub import repository_of
from copd.system.files import COMMIT, HUB
from copd.system.hub import commit_of


def commits_of(recipe: Recipe) -> dict[str, str]:
    """The commit, as the hub has it now (`copd.system.hub`), of each branch or tag: by the field that names it.

    A folder keeps its revision, which `model_folder` refuses. Raises ModelFolderError or DataError, naming the field,
    for one that cannot be resolved.
    """
    found, model = {}, recipe.model
    if _moves(model.revision) and not is_local(model.path):
        try:
            found["model.revision"] = commit_of(model.path, model.revision, "model")
        except CopdError as error:
            raise ModelFolderError(f"model.revision: {error}") from error
    for name, branch in recipe.branches.items():
        task = branch.task
        if isinstance(task, RowsTask) and _moves(task.revision):
            files = [file for some in (task.train, task.validation, task.test) for file in some or ()]
            repository = repository_of(next(file for file in files if file.startswith(HUB)))
            field = f"branches.{name}.task.revision"
            try:
                found[field] = commit_of(repository, task.revision, "dataset")
            except CopdError as error:
                raise DataError(f"{field}: {error}") from error
    return found


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with a commit in the place of each branch or tag. Raises what `commits_of` raises."""
    commits = commits_of(recipe)
    if not commits:
        return recipe
    model, branches = recipe.model, dict(recipe.branches)
    if commit := commits.get("model.revision"):
        model = model.model_copy(update={"revision": commit})
    for name, branch in recipe.branches.items():
        if commit := commits.get(f"branches.{name}.task.revision"):
            task = branch.task.model_copy(update={"revision": commit})
            branches[name] = branch.model_copy(update={"task": task})
    return recipe.model_copy(update={"model": model, "branches": branches})


def _moves(revision: str | None) -> TypeGuard[str]:
    """Whether a revision is a branch or a tag, not a commit."""
    return revision is not None and not re.fullmatch(COMMIT, revision)
