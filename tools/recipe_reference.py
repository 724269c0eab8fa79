"""The tables of docs/recipe.md, from the recipe's own sections (`make docs`). What stands above the mark is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from copd.recipe.method_sections import MERGE_FIELDS
from copd.recipe.model import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipe.md"
MARK = "<!-- Below this line: written by `make docs` from the sections of the recipe. -->\n"
SLIPS = {10**6, 10**9}
"""Bounds of counts in general; docs/recipe.md tells them once."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"null": "null", "boolean": "true or false"}
SCHEMA = Recipe.model_json_schema()
"""JSON Schema has what a reader wants of a field: type, accepted values, default and description."""


def renewed(page: str) -> str:
    """The page with its tables written anew."""
    return page.partition(MARK)[0] + MARK + "".join(chapters(SCHEMA, "")) + merges()


def chapters(section: dict[str, Any], path: str) -> Iterator[str]:
    """A chapter about each section below `path`: its docstring, then a line for each of its fields."""
    fields = {path + name: field for name, field in section["properties"].items()}
    title = f"`{path.removesuffix('.')}`" if path else "The recipe itself"
    kind = section["properties"].get("kind", {}).get("const")
    yield f"\n## {title}{f' with `kind: {kind}`' if kind else ''}\n\n{prose(section['description'])}\n\n"
    yield "| field | accepted | default | meaning |\n|---|---|---|---|\n"
    required = {path + name for name in section.get("required", ())}
    for name, field in fields.items():
        if "$ref" not in field and "oneOf" not in field:
            default = "required" if name in required else f"`{as_yaml(field['default'])}`"
            yield f"| `{name}` | {accepted(field)} | {default} | {cell(prose(field.get('description', '')))} |\n"
    for name, field in fields.items():
        for end, inner in inner_sections(field):
            yield from chapters(inner, f"{name}{end}.")


def inner_sections(field: dict[str, Any], end: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The sections that a field holds, each with what stands between its path and the field's."""
    if "$ref" in field:
        yield end, SCHEMA["$defs"][field["$ref"].rpartition("/")[2]]
    for choice in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from inner_sections(choice, end)
    if "items" in field:
        yield from inner_sections(field["items"], "[]")
    for values in field.get("patternProperties", {}).values():
        yield from inner_sections(values, ".NAME")


def accepted(field: dict[str, Any]) -> str:
    """What a field accepts, in words."""
    if "$ref" in field or "oneOf" in field:
        return "a section (see below)"
    if "anyOf" in field:
        return " or ".join(accepted(choice) for choice in field["anyOf"])
    if values := field.get("enum", [field["const"]] if "const" in field else None):
        return ", ".join(f"`{value}`" for value in values)
    if field["type"] == "array":
        fixed = field.get("prefixItems")
        return f"[{', '.join(map(accepted, fixed))}]" if fixed else f"{filled(field)}list of {accepted(field['items'])}"
    if field["type"] == "object":
        ((names, values),) = field.get("patternProperties", {"": field.get("additionalProperties")}).items()
        return f"mapping of names{like(names)} to {accepted(values)}"
    if field["type"] == "string":
        return f"{filled(field)}text{like(field.get('pattern', ''))}"
    slips = SLIPS if field["type"] == "integer" else ()
    bounds = [f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field and field[key] not in slips]
    return WORDS.get(field["type"]) or " ".join([field["type"], " and ".join(bounds)]).strip()


def like(pattern: str) -> str:
    return f" like `{cell(pattern)}`" if pattern else ""


def filled(field: dict[str, Any]) -> str:
    return "non-empty " if field.get("minItems") or field.get("minLength") else ""


def as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def prose(text: str) -> str:
    """A text in which nothing is taken for HTML."""
    return text.replace("<", r"\<")


def cell(text: str) -> str:
    """A text that does not end the cell of a table that it stands in."""
    return text.replace("|", r"\|")


def merges() -> str:
    """The fields of each merge method: no other is accepted with it."""
    lines = [
        f"| `{method}` | {', '.join(f'`{name}: {as_yaml(value)}`' for name, value in fields.items()) or 'none'} |\n"
        for method, fields in MERGE_FIELDS.items()
    ]
    return "".join(["\n## Merge methods\n\n| method | its fields and their defaults |\n|---|---|\n", *lines])


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
