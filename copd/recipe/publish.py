"""A recipe as others may see it: no folder of the user's machine is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from copd.recipe.fields import is_code
from copd.recipe.model import Recipe
from copd.recipe.task_sections import PythonTask, RowsTask
from copd.system.files import COMMIT, HUB

HUB_ID = re.compile(rf"\w[\w.-]*/\w[\w.-]*(@{COMMIT})?")
BUILTIN = "builtin:"


def bare(path: str) -> str:
    """The last name of a path or of path/file.py:NAME. What names something of copd or of the hub stays whole."""
    return path if path.startswith((HUB, BUILTIN)) else PurePath(path).name


def model_name(path: str, revision: str | None = None) -> str:
    """What others may call a model: an id of the hub with its commit, builtin:NAME, or the name of a folder."""
    pinned = path if revision is None else f"{path}@{revision}"
    return pinned if hub_id(path, revision) else bare(path)


def hub_id(path: str, revision: str | None = None) -> str | None:
    """The id of a model on the hub, without its commit; None for a folder or a builtin model."""
    pinned = path if revision is None else f"{path}@{revision}"
    return pinned.partition("@")[0] if "@" in pinned and HUB_ID.fullmatch(pinned) else None


def published(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested mappings. Files and folders stand by their names alone."""
    data = recipe.model_dump(mode="json")
    data["model"]["path"] = recipe.model.path if recipe.model.revision else model_name(recipe.model.path)
    if recipe.model.family:
        data["model"]["family"] = bare(recipe.model.family)
    for section in data["branches"].values():
        for field in ("train", "validation", "test", "data_root", "source"):
            if section["task"].get(field):
                section["task"][field] = _bare(section["task"][field])
        if "arguments" in section["task"]:
            arguments = section["task"]["arguments"]
            section["task"]["arguments"] = {name: bare(v) if _is_path(v) else v for name, v in arguments.items()}
    data["verifiers"] = _bare(data["verifiers"])
    for tracker in data["trackers"]:
        tracker["kind"] = bare(tracker["kind"]) if is_code(tracker["kind"]) else tracker["kind"]
    data["merge"]["method"] = bare(recipe.merge.method)
    if recipe.experts.run:
        data["experts"]["run"] = bare(recipe.experts.run)
    return data


def as_yaml(recipe: Recipe, head: str) -> str:
    """The published recipe as YAML, below the comment `head`."""
    return f"# {head}\n{yaml.safe_dump(published(recipe), sort_keys=False, allow_unicode=True, width=120)}"


def data_names(recipe: Recipe) -> dict[str, list[str]]:
    """By branch, the names of what its problems come from."""
    found = {}
    for name, branch in recipe.branches.items():
        task = branch.task
        if isinstance(task, RowsTask):
            files = [file for split in (task.train, task.validation, task.test) for file in split or ()]
            found[name] = list(dict.fromkeys(map(bare, files)))
        elif isinstance(task, PythonTask):
            found[name] = [bare(task.source)]
        else:
            found[name] = [f"copd's embedded world, {task.capability}"]
    return found


def hub_data(recipe: Recipe) -> list[str]:
    """The ids of the data sets of the hub that a recipe trains on, each once."""
    files = [file for names in data_names(recipe).values() for file in names if file.startswith(HUB)]
    return list(dict.fromkeys("/".join(file.removeprefix(HUB).split("/")[:2]) for file in files))


def _is_path(value: Any) -> bool:
    """Whether an argument of the user's own class is a place on this machine."""
    return isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or os.path.exists(value))


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _bare(inner) for key, inner in value.items()}
    return [_bare(inner) for inner in value] if isinstance(value, list) else bare(value)
