"""The reference answer of a row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from copd.errors import BadRow
from copd.rows.prompts import CONTROL_TOKEN, kind_of, sound_unicode

THINK, THOUGHT = "<think>", "</think>"
TAG, CLOSING_TAG = "<answer>", "</answer>"
BOXED = "\\boxed{"
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b\u2060\ufeff]")
"""Control characters but for white space, zero-width spaces, and the byte order mark. No model writes them."""
TAGS = re.compile(r"</?(?:answer|think|thinking|thoughts?|reasoning)>", re.IGNORECASE)
LEAD_IN = re.compile(r"\W{0,5}(?:the )?(?:final |correct )?answer(?: is\b|\s?[:=])", re.IGNORECASE)
SENTENCE = re.compile(r"\bthe (?:final |correct )?answer is\b", re.IGNORECASE)
GSM8K = "#### "
FLOAT_DIGITS = 15
"""Digits that a float holds of any decimal."""


class Solution(NamedTuple):
    """What a reference solution gives as its answer, and whether a tag or a box says so."""

    answer: Any
    is_marked: bool


class LongNumber(float):
    """A number of JSON that a float may not hold to its last digit, and the text that spells it."""

    text: str


def number_of(text: str) -> float:
    """The number that a text of JSON spells; one of many digits keeps them, for an answer is compared exactly."""
    number = LongNumber(text)
    number.text = text
    return number if number == 0 or len(text) > FLOAT_DIGITS else float(text)


def within(solution: Any, boxed_answer: Callable[[str], str | None]) -> Solution:
    """The answer within a reference solution: behind its thoughts, in its only `<answer>`, in its only `\\boxed{}`.

    Without a box it is what stands behind `####` in the last line.

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
        behind = behind_hashes(text)
        return Solution(behind, any(tags) or behind is not text)
    answer = boxed_answer(text)
    if answer is None:
        raise BadRow(f"no single answer: {text.count(BOXED)} \\boxed{{}} in it, or one that is not closed")
    return Solution(answer, True)


def behind_hashes(answer: Any) -> Any:
    """What stands in the last line of a text behind its only `####`; without that, the answer as it is."""
    if not isinstance(answer, str) or answer.count(GSM8K) != 1:
        return answer
    last = answer.rstrip().rpartition("\n")[2]
    return last.removeprefix(GSM8K).lstrip() if last.startswith(GSM8K) else answer


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
        raise BadRow(f"the answer is {value}; accepted: a text or a finite number")
    text = value.strip() if isinstance(value, str) else value.text if isinstance(value, LongNumber) else repr(value)
    if not text:
        raise BadRow("the answer is empty")
    return sound_unicode(text, "the answer")


def unsaid(answer: str) -> str | None:
    """What an answer holds that no final answer of a response does, so that every response would be wrong; or None."""
    if answer.isalnum():
        return None
    if token := CONTROL_TOKEN.search(answer):
        return f"a response cannot hold the control token {token[0]!r}"
    if invisible := INVISIBLE.search(answer):
        return f"it holds the invisible character U+{ord(invisible[0]):04X}"
    if tag := TAGS.search(answer):
        return f"a final answer never holds {tag[0]}; give what stands inside or behind it"
    if lead := LEAD_IN.match(answer):
        return f"a final answer does not begin with {lead[0]!r}; give what stands behind it"
    if sentence := SENTENCE.search(answer):
        return f"a final answer does not hold {sentence[0]!r}; give what stands behind it"
    if GSM8K in answer:
        return f"a final answer does not hold {GSM8K.strip()}; give what stands behind it"
    return None
