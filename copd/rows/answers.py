"""The reference answer of a row, and the choices that a row gives beside its question."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from copd.errors import BadRow, visible
from copd.rows.prompts import kind_of, sound_text, sound_unicode

THINK, THOUGHT = "<think>", "</think>"
TAG, CLOSING_TAG = "<answer>", "</answer>"
BOXED = "\\boxed{"
CHOICES = ("options", "choices")
"""Columns that may hold the choices of a question."""
MAX_CHOICES = 26
LABELLED = re.compile(r"\s*[(\[]?([A-Za-z])\s?[.):\]]")


class Solution(NamedTuple):
    """What a reference solution gives as its answer, and whether a tag or a box says so."""

    answer: Any
    is_marked: bool


def within(solution: Any, boxed_answer: Callable[[str], str | None]) -> Solution:
    """The answer within a reference solution: behind its thoughts, in its only `<answer>`, in its only `\\boxed{}`.

    Raises BadRow if there are several, or if one is not closed.
    """
    if not isinstance(solution, str):
        return Solution(solution, False)
    text = solution.rpartition(THOUGHT)[2]
    if THINK in text:
        raise BadRow("no single answer: its thoughts are never closed")
    tags = text.count(TAG), text.count(CLOSING_TAG)
    if max(tags) > 1:
        raise BadRow(f"no single answer: {max(tags)} {TAG} or {CLOSING_TAG} in it")
    if any(tags):
        text, closed, _ = text.partition(TAG)[2].partition(CLOSING_TAG)
        if not closed:
            raise BadRow(f"no single answer: {TAG} and {CLOSING_TAG} do not stand around it")
    if BOXED not in text:
        return Solution(text, any(tags))
    answer = boxed_answer(text)
    if answer is None:
        raise BadRow(f"no single answer: {text.count(BOXED)} \\boxed{{}} in it, or one that is not closed")
    return Solution(answer, True)


def answer_text(value: Any, *, of_any_type: bool) -> str:
    """A reference answer as text. `of_any_type`: lists and mappings are written as JSON. Raises BadRow."""
    if of_any_type and isinstance(value, list | tuple | Mapping):
        try:
            return sound_unicode(json.dumps(value, ensure_ascii=False, allow_nan=False), "the answer")
        except (TypeError, ValueError, RecursionError):
            raise BadRow(f"the answer is {kind_of(value)} that JSON cannot hold") from None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        only = " (only a verifier of your own reads others)" if isinstance(value, list | tuple | Mapping) else ""
        raise BadRow(f"the answer is {kind_of(value)}; accepted: a text or a number{only}")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"the answer is {value}; accepted: a text or a number")
    text = value.strip() if isinstance(value, str) else repr(value)
    if not text:
        raise BadRow("the answer is empty")
    return sound_unicode(text, "the answer")


class Choices(NamedTuple):
    """The column of a row's choices, and each choice with its letter; no choices if the column is not read."""

    column: str
    lines: list[str]


def choices_of(raw: Mapping[str, Any]) -> Choices | None:
    """The choices of a row; None for a row without such a column.

    They are a list of texts, texts by letter, or texts and letters in two lists: `{"text": [...], "label": [...]}`.
    A text or number in the column is no list of choices. Raises BadRow for a choice that is no text.
    """
    column = next((name for name in CHOICES if raw.get(name)), None)
    if column is None:
        return None
    given = raw[column]
    if isinstance(given, Mapping):
        texts, letters = given.get("text"), given.get("label")
        if isinstance(texts, list | tuple) and isinstance(letters, list | tuple) and len(texts) == len(letters):
            given = dict(zip(letters, texts, strict=True))
        given = {letter: text for letter, text in given.items() if text is not None}
        return Choices(column, [f"{letter}. {_choice(text, column, letter)}" for letter, text in given.items()])
    if not isinstance(given, list | tuple):
        return Choices(column, [])
    if len(given) > MAX_CHOICES:
        raise BadRow(f"{len(given)} {column}; accepted: at most {MAX_CHOICES}")
    lines = [_choice(text, column, i) for i, text in enumerate(given)]
    own = [match and match[1].upper() for match in map(LABELLED.match, lines)]
    letters = list(ascii_uppercase[: len(lines)])
    return Choices(column, lines if own == letters else [f"{a}. {b}" for a, b in zip(letters, lines, strict=True)])


def _choice(value: Any, column: str, where: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{column}[{visible(str(where)[:20])}] is {kind_of(value)}; accepted: a text or a number")
    return sound_text(str(value)).strip()


def shows(text: str, lines: list[str]) -> bool:
    """Whether a text has all choices, each behind its letter."""
    parts = [(match[1], line[match.end() :].strip()) for line in lines if (match := LABELLED.match(line))]
    return all(re.search(rf"(?<!\w)[(\[]?{letter}\s?[.):\]]\s*{re.escape(body)}(?!\w)", text) for letter, body in parts)
