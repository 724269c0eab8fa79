"""Rows whose columns have other names than ours: those that a recipe maps, and names that are usual in data sets.

| column | read as |
|---|---|
| `question`, else `problem`, else `messages` | `prompt`, in a file that fits no format as it is |
| `messages` of a file without an answer | `prompt`, and the last message, the assistant's, as `solution` |
| `image`, `video` | `images`, `videos`, in a row without those |
| `image_1`, `image_2`, ... | `images`; in a prompt `<image 2>` is the place of `image_2` |
| `path` with the `data_type` image or video | `images` or `videos` |
| a text that spells a list of texts, as Python prints it, in `options` or `choices` | that list |
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from copd.errors import BadRow, DataError, visible
from copd.rows.prompts import MARKS, Turn, kind_of
from copd.rows.references import MAX_MEDIA
from copd.rows.unread import CHOICES, is_given
from copd.types import Medium

PROMPT, MESSAGES, SOLUTION = "prompt", "messages", "solution"
PROMPTS = ("question", "problem", MESSAGES)
"""Columns that may hold the prompt, the first one that a file has."""
ANSWERS = ("answer", SOLUTION, "reward_model")
NUMBERED = re.compile(r"image_(\d{1,3})")
NUMBERED_MARK = re.compile(r"<image[ _]?(\d{1,3})>")
TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
LIST_OF_TEXTS = re.compile(rf"\s*\[\s*(?:{TEXT}\s*(?:,\s*{TEXT}\s*)*)?\]\s*", re.DOTALL)
LONGEST_LIST = 20_000
"""Most characters of a text that is read as a list of choices."""

Names = Mapping[str, str]
"""Our name of a column -> its name in a file."""


def check_named(there: Collection[str], names: Names, where: str) -> None:
    """Raise DataError if a file lacks the column that a recipe says is its prompt or its answer."""
    for ours in (PROMPT, "answer"):
        if ours in names and names[ours] not in there:
            known = visible(", ".join(sorted(there)[:20]))
            raise DataError(f"{where}: columns.{ours} is {names[ours]!r}, which no column has; there is {known}")


def usual_names(there: Collection[str]) -> Names:
    """What is read as `prompt`, and if need be as `solution`, in a file with these columns; empty if unknown."""
    prompt = next((name for name in PROMPTS if name in there), None)
    if prompt is None or PROMPT in there:
        return {}
    if any(name in there for name in ANSWERS):
        return {PROMPT: prompt}
    return {PROMPT: MESSAGES, SOLUTION: MESSAGES} if MESSAGES in there else {}


class Renamed(NamedTuple):
    """A row under our names, and the numbers of its pictures if they have columns with numbers."""

    raw: dict[str, Any]
    numbers: tuple[int, ...] = ()


def renamed(raw: Mapping[str, Any], names: Names) -> Renamed:
    """A row under our names. Raises BadRow for messages that do not end with the assistant's, if that is its answer."""
    found = {name: value for name, value in raw.items() if name not in names.values()}
    found |= {ours: raw[theirs] for ours, theirs in names.items() if theirs in raw}
    for many in ("images", "videos"):
        if many in names and is_given(found.get(many)) and not isinstance(found[many], list | tuple):
            found[many] = [found[many]]
    if names.get(SOLUTION) == MESSAGES:
        found |= _parted(raw.get(MESSAGES))
    _lift(found, "image", "images")
    _lift(found, "video", "videos")
    kind = found.get("data_type")
    if kind in ("image", "video") and isinstance(found.get("path"), str) and not is_given(found.get(f"{kind}s")):
        found[f"{kind}s"] = [found.pop("path")]
    for column in CHOICES:
        if (
            isinstance(value := found.get(column), str)
            and len(value) <= LONGEST_LIST
            and LIST_OF_TEXTS.fullmatch(value)
        ):
            found[column] = _texts(value)
    return _with_numbered(found)


def place_numbered(
    turns: Sequence[Turn], images: Sequence[Any], numbers: Sequence[int], notes: list[str]
) -> tuple[list[Turn], tuple[Any, ...]]:
    """Turns with a mark of ours for each `<image N>`, and the pictures in the order of the marks.

    A picture stands at each of its marks. One without a mark is left out, with a note, unless there are no marks at
    all. Raises BadRow for the mark of a picture that the row does not have.
    """
    by_number = dict(zip(numbers, images, strict=True))
    order: list[int] = []

    def taken(match: re.Match[str]) -> str:
        if int(match[1]) not in by_number:
            raise BadRow(f"{match[0]} in the prompt, but the row has no image_{int(match[1])}")
        order.append(int(match[1]))
        return MARKS[Medium.IMAGE]

    placed = [(role, NUMBERED_MARK.sub(taken, text)) for role, text in turns]
    if not order:
        return list(turns), tuple(images)
    if len(order) > MAX_MEDIA:
        raise BadRow(f"{len(order)} places of images; accepted: at most {MAX_MEDIA}")
    notes += [
        f"image_{number} has no place in the prompt, and is not shown" for number in numbers if number not in order
    ]
    return placed, tuple(by_number[number] for number in order)


def _lift(found: dict[str, Any], one: str, many: str) -> None:
    """Put a picture or video in a column of its own into a list. A list of pictures stays; one of frames is a video."""
    value = found.get(one)
    if is_given(value) and not is_given(found.get(many)):
        found[many] = value if one == "image" and isinstance(value, list | tuple) else [value]
        del found[one]


def _with_numbered(found: dict[str, Any]) -> Renamed:
    """The row with the pictures of its numbered columns as `images`, if it has no others."""
    numbered = sorted((int(match[1]), name) for name in found if (match := NUMBERED.fullmatch(name)))
    if not numbered or is_given(found.get("images")):
        return Renamed(found)
    given = [(number, found.pop(name)) for number, name in numbered if is_given(found[name])]
    if not given:
        return Renamed(found)
    numbers, pictures = zip(*given, strict=True)
    return Renamed({**found, "images": list(pictures)}, numbers)


def _parted(messages: Any) -> dict[str, Any]:
    """Prompt and solution of messages that end with the assistant's."""
    last = messages[-1] if isinstance(messages, list | tuple) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise BadRow(f"no answer: messages, {kind_of(messages)}, do not end with one of the assistant")
    return {PROMPT: list(messages[:-1]), SOLUTION: last.get("content")}


def _texts(spelled: str) -> list[str]:
    """The texts of a list as Python prints it, which is known to hold nothing but texts."""
    try:
        return [str(ast.literal_eval(text)) for text in re.findall(TEXT, spelled, re.DOTALL)]
    except (ValueError, SyntaxError):
        raise BadRow("its choices are a text that looks like a list of texts and is none") from None
