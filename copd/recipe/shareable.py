"""A recipe as it may leave the machine. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from copd.recipe.model import Recipe
from copd.system.files import HUB

SPLITS = ("train", "validation", "test")


def shareable(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, with only the last part of each path of the user's machine.

    Names on the hub and builtin models stay whole.
    """
    values: dict[str, Any] = recipe.model_dump(mode="json")
    model, experts = values["model"], values["experts"]
    if Path(model["path"]).exists() or Path(model["path"]).is_absolute():
        model["path"] = last_part(model["path"])
    for branch in values["branches"].values():
        task = branch["task"]
        for split in SPLITS:
            if task.get(split):
                task[split] = [last_part(file) for file in task[split]]
        if task.get("data_root"):
            task["data_root"] = last_part(task["data_root"])
    values["verifiers"] = {name: last_part(source) for name, source in values["verifiers"].items()}
    if experts["run"]:
        experts["run"] = last_part(experts["run"])
    return values


def last_part(path: str) -> str:
    """The last part of a path; a name on the hub as it is."""
    return path if path.startswith(HUB) else re.split(r"[\\/]", path.rstrip("\\/"))[-1]
