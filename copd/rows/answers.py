"""The reference answer of a row, and the choices that a row gives beside its question."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from copd.errors import BadRow
from copd.rows.prompts import kind_of, sound_text, sound_unicode

THINK, THOUGHT = "<think>", "</think>"
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
BOXED = "\\boxed{"
CHOICES = ("options", "choices")
"""Columns that hold the choices of a question."""
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
    tagged = TAGGED.findall(text)
    if len(tagged) > 1:
        raise BadRow(f"no single answer: {len(tagged)} <answer> in it")
    if tagged:
        (text,) = tagged
    if BOXED not in text:
        return Solution(text, bool(tagged))
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


def choices_of(raw: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The column of a row's choices, and each choice with its letter; None for a row without such a column.

    A choice that begins with a letter, such as `B. blue`, keeps it. Raises BadRow for what is no list of texts.
    """
    column = next((name for name in CHOICES if raw.get(name)), None)
    if column is None:
        return None
    given = raw[column]
    if isinstance(given, Mapping):
        given = [f"{letter}. {text}" for letter, text in given.items() if text is not None]
    if not isinstance(given, list | tuple) or not all(isinstance(each, str | int | float) for each in given):
        raise BadRow(f"{column} is {kind_of(raw[column])}; accepted: a list of texts, or texts by letter")
    if len(given) > MAX_CHOICES:
        raise BadRow(f"{len(given)} {column}; accepted: at most {MAX_CHOICES}")
    texts = [sound_text(str(each)).strip() for each in given]
    if all(LABELLED.match(text) for text in texts):
        return column, texts
    return column, [f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(texts)]


def shows(text: str, choices: list[str]) -> bool:
    """Whether a question already has all its choices, with or without their letters."""
    return all(LABELLED.sub("", choice, count=1).strip() in text for choice in choices)
