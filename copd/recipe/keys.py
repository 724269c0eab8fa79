"""Keys of hubs and trackers belong in the environment. A recipe must hold none: a run copies it into its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAMED_A_KEY = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST = 12
"""Characters. A shorter value may stand in a recipe by chance."""


def environment_keys() -> dict[str, str]:
    """The values of environment variables that are named like a key, by their names."""
    return {name: value for name, value in os.environ.items() if NAMED_A_KEY.search(name) and len(value) >= SHORTEST}


def check_no_key(recipe: Any) -> None:
    """Raise ValueError, naming field and variable, if a recipe repeats a key that the environment holds."""
    keys = environment_keys()
    for path, text in _texts(recipe, ()):
        if name := next((name for name, key in keys.items() if key in text), None):
            field = next((part for part in (".".join(path), ".".join(path[:-1])) if keys[name] not in part), "")
            raise ValueError(
                f"{field or 'recipe'}: holds the value of the environment variable {name}, which a run would write "
                "into its files; leave it out, hubs and trackers read the variable"
            )


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of nested lists and mappings, names included, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, str(key)), str(key)
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, str(number)))
