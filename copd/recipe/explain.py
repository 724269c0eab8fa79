"""Errors of a recipe in the user's words: the path to the key, the value found, the values accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from copd.recipe.fields import Section
from copd.recipe.model import Recipe
from copd.recipe.sections import EdgeSection
from copd.recipe.synonyms import alike, meant_within
from copd.recipe.task_sections import TASK_TAG, TASKS, BranchSection

HINTS = 3
"""At most so many fields inside an unknown section are told."""

PATTERN_MEANT = {
    "branches": "a branch's name is a letter, then letters, digits, _ or -, at most 32 in all",
    "verifiers": "a verifier's name is letters, digits, _, / or -, at most 64 in all",
    "rewards": "a verifier's name is letters, digits, _, / or -, at most 64 in all",
    "candidates": "an arm's name is a letter, then letters, digits, _, . or -, at most 40 in all",
    "arms": "an arm's name is a letter, then letters, digits, _, . or -, at most 40 in all",
    "benchmarks": "a benchmark's name is a letter, then letters, digits, _ or -, at most 32 in all",
    "rows": "a file's name, without its ending, is a letter, then letters, digits, _ or -, at most 32 in all",
    "device": "accepted: cpu, mps, cuda or cuda:N",
    "revision": "accepted: a commit, a branch or a tag",
}
"""What is meant by the pattern of a section's keys, or of a field."""
ACCEPTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "names with values, as NAME: VALUE",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "a length of {min_length} or more",
    "too_long": "a length of {max_length} or less",
    "model_type": "a section, that is fields with values",
}
"""What a field accepts, by the type of pydantic's error."""
RENAMED = {
    ("edges", "beta"): "weight",
    ("grpo", "passes"): "iterations",
    ("opd", "beta"): "weight",
    ("reward", "answer"): "answer_form",
}
"""Section and former name of a key -> its present name."""


def explain(details: Sequence[Mapping[str, Any]], root: type[BaseModel] = Recipe) -> list[str]:
    """One line for each error. A list whose items have errors is not also called too short."""
    places = [tuple(map(str, detail["loc"])) for detail in details]
    return [
        explained(detail, root)
        for detail, place in zip(details, places, strict=True)
        if detail["type"] != "too_short" or not any(other[:-1] == place for other in places)
    ]


def explained(detail: Mapping[str, Any], root: type[BaseModel] = Recipe) -> str:
    """One error of pydantic in the user's words; `root` is what was read."""
    tagged = [str(key) for key in detail["loc"]]
    path = [key for key in tagged[:-1] if not key.startswith(TASK_TAG)]
    if detail["type"] == "extra_forbidden" or not tagged[-1:] or not tagged[-1].startswith(TASK_TAG):
        path += tagged[-1:]
    where = ".".join(path) or "recipe"
    if detail["type"] == "unknown_kind":
        return f"{where}.kind: {detail['msg']}, found {_short(detail['input']['kind'])}"
    if detail["type"] == "extra_forbidden":
        if new := RENAMED.get((next((key for key in reversed(path[:-1]) if not key.isdigit()), ""), path[-1])):
            return f"{where}: is called {'.'.join([*path[:-1], new])} now"
        of, kinds = tagged[-2:-1], [kind for kind, task in TASKS.items() if path[-1] in task.model_fields]
        if kinds and of and of[0].startswith(TASK_TAG):
            kind = of[0].removeprefix(TASK_TAG)
            return f"{where}: a task of kind {kind} has none; it belongs to kind: {' or '.join(kinds)}"
        return f"{where}: unknown key; {_hint(where, detail['input'], tagged[:-1], root)}"
    if detail["type"] == "missing":
        return f"{where}: missing; it has no default"
    if detail["type"] == "string_pattern_mismatch":
        is_key = path[-1] == "[key]"
        where = ".".join(path[:-1] if is_key else path)
        detail = {**detail, "msg": next(PATTERN_MEANT[key] for key in reversed(path) if key in PATTERN_MEANT)}
    if detail["type"] in ACCEPTED:
        detail = {**detail, "msg": "accepted: " + ACCEPTED[detail["type"]].format(**detail.get("ctx", {}))}
    if detail["type"] == "tuple_type":
        hint = f"; write [{_short(detail['input'])[1:-1]}]" if isinstance(detail["input"], str | int | float) else ""
        files = path[-1] in ("train", "validation", "test")
        detail = {**detail, "msg": "accepted: a file, or a list of files" if files else f"accepted: a list{hint}"}
    message = detail["msg"].removeprefix("Value error, ")
    if message.startswith("."):
        return f"{'.'.join(path)}{message}".removeprefix(".")
    found = "" if detail["type"] == "value_error" else f", found {_short(detail['input'])}"
    return f"{message}{found}" if not path else f"{where}: {message}{found}"


def _hint(where: str, value: Any, parents: Sequence[str], root: type[BaseModel]) -> str:
    """What was probably meant by an unknown key: a misspelt section if its fields are known or free names."""
    known = _known_names(parents, root)
    names = get_close_matches(where.rpartition(".")[2], known, n=1)
    near = [f"did you mean {name!r}?" for name in names]
    foreign = [*dict.fromkeys(meant_within(where, value))][:HINTS] if root is Recipe else []
    free = [name for name in names if not parents and get_origin(root.model_fields[name].annotation) is dict]
    known_within = {key for name in names for key in _known_names([*parents, name], root)}
    misspelt = isinstance(value, Mapping) and bool(free or set(value) & known_within)
    first, second = (near, foreign) if misspelt else (foreign, near)
    guess = alike(where) if root is Recipe else None
    return "; ".join(first or second) or guess or f"accepted: {', '.join(known)}"


def _short(value: Any) -> str:
    """A value, shortened for a message."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of very many digits"
    try:
        return repr(str(value)[:80])
    except ValueError:
        return "something with a number of very many digits"


def _known_names(parents: Sequence[str], root: type[BaseModel]) -> list[str]:
    section: Any = root
    for parent in parents:
        if section is Recipe and parent == "branches":
            section = {"*": BranchSection}
        elif isinstance(section, dict):
            section = section["*"]
        elif parent == "edges" or parent.isdigit():
            section = EdgeSection
        elif parent.startswith(TASK_TAG):
            section = TASKS[parent.removeprefix(TASK_TAG)]
        else:
            annotation: Any = section.model_fields[parent].annotation
            held = (a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, Section))
            section = next(held, annotation)
            if get_origin(annotation) is dict:
                section = {"*": section}
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
