"""Read a recipe from YAML and `section.key=value` overrides, and check it as a whole.

Imports no torch, so that a typo is reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from os.path import isdir
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from copd.errors import RecipeError, first_line
from copd.recipe.explain import explain
from copd.recipe.method_sections import MERGE_FIELDS
from copd.recipe.model import Recipe
from copd.recipe.strict_yaml import parse_yaml

ROWS = (".jsonl", ".ndjson", ".parquet")
"""How files are named that hold rows. A .json file may be a recipe."""
SHORT = {"backend": "kind"}
"""Sections for which the value of one field may stand, and that field."""


def yaml_of(source: str | Path, overrides: Sequence[str] = ()) -> str:
    """The YAML of a recipe as it is written, or with overrides, then without its comments. Raises RecipeError."""
    text = recipe_text(source)
    if not overrides:
        return text
    data = parse_yaml(text, str(source))
    for override in overrides:
        _apply(data, override)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a builtin recipe by its name, and apply `section.key=value` overrides.

    The recipe may also be given as nested mappings; they are not changed. Raises RecipeError with the path to the key,
    the value found and the values accepted.
    """
    return make_recipe(recipe_data(source, overrides))


def recipe_data(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested mappings of `load_recipe`, not yet checked as a recipe."""
    if not isinstance(source, str | Path | Mapping):
        accepted = "a file, the name of a recipe that ships, nested mappings, or what copd.load_recipe returned"
        raise RecipeError(f"recipe: found {type(source).__name__}; accepted: {accepted}")
    data = parse_yaml(recipe_text(source), str(source)) if isinstance(source, str | Path) else deepcopy(dict(source))
    if not isinstance(data, dict):
        found = (
            type(data).__name__ if data is not None else "nothing; if `copd init` wrote the file, its error says why"
        )
        raise RecipeError(f"{source}: a recipe is a mapping of sections, found {found}")
    if "arms" in data and "branches" not in data:
        told = f"a comparison, for `copd compare` and `copd plan`; its recipe is {data.get('recipe')}"
        raise RecipeError(f"{source if isinstance(source, str | Path) else 'recipe'}: has arms, so it is {told}")
    for override in overrides:
        _apply(data, override)
    return data


def make_recipe(data: Mapping[str, Any]) -> Recipe:
    """Validate a recipe given as nested mappings; raises RecipeError naming every faulty key."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error.errors()))) from None


def reread(saved: Any) -> dict[str, Any]:
    """A recipe from the manifest of a run. Fields that are newer than the run take their defaults.

    Raises RecipeError naming every key that this copd does not accept.
    """
    return make_recipe(saved).model_dump(mode="json")


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with copd."""
    return sorted(
        p.name.removesuffix(".yaml") for p in (files("copd.recipe") / "builtin").iterdir() if p.name.endswith(".yaml")
    )


def described(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, value and meaning of every field of a recipe, those of nested sections included."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        inner = (
            {f"{name}.{k}": item for k, item in value.items()} if value and isinstance(value, dict) else {name: value}
        )
        for path, item in inner.items():
            if isinstance(item, BaseModel):
                yield from described(item, f"{prefix}{path}.")
            else:
                yield f"{prefix}{path}", _as_yaml(item), field.description or ""


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_as_yaml(item) for item in value)}]"
    if isinstance(value, BaseModel):
        return str(value.model_dump())
    return "null" if value is None else _quoted_where_needed(value) if isinstance(value, str) else str(value)


def _quoted_where_needed(text: str) -> str:
    try:
        plain = parse_yaml(f"[{text}]", "") == [text]
    except RecipeError:
        plain = False
    return text if plain else json.dumps(text)


def recipe_text(source: str | Path) -> str:
    """The YAML of a recipe's file, or of a builtin recipe. Raises RecipeError if there is neither."""
    path = Path(source)
    if path.suffix in ROWS and not isdir(path):
        raise RecipeError(
            f"recipe {source}: a file of rows; accepted: a YAML file, which `copd init --model MODEL {source}` writes"
        )
    builtin = files("copd.recipe") / "builtin" / f"{source}.yaml"
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else builtin.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {source}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error
    except OSError as error:
        known = ", ".join(builtin_recipes())
        refused = f" ({first_line(error)})" if isinstance(error, PermissionError) else ""
        why = " (it is a folder)" if source and isdir(path) else refused
        raise RecipeError(
            f"recipe {source}: not a readable file{why}, nor one of the recipes of copd: {known}"
        ) from error


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=") if isinstance(override, str) else ("", "", "")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"override {override!r}: write section.key=value, for instance schedule.cycles=2")
    target = data
    for key in keys[:-1]:
        if target.get(key) is None:
            target[key] = {}
        if key in SHORT and isinstance(target[key], str):
            target[key] = {SHORT[key]: target[key]}
        target = target[key]
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {key!r} is a value, not a section")
    target[keys[-1]] = parse_yaml(value, f"override {override!r}")
    if keys == ["merge", "method"]:
        _forget_fields_of_another_merge(target)


def _forget_fields_of_another_merge(section: dict[str, Any]) -> None:
    """Leave out the fields that a merge method before an override has taken, and the method of now does not take."""
    taken = MERGE_FIELDS.get(str(section["method"]), {})
    for name in {name for fields in MERGE_FIELDS.values() for name in fields} - taken.keys():
        section.pop(name, None)
