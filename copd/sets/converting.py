"""What the published sets have in common: columns under several names, answers, and the verifier that reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from copd.errors import BadRow
from copd.rewards.answers import final_answer
from copd.rewards.verifiers import letter
from copd.rows.answers import within
from copd.rows.prompts import kind_of

Raw = Mapping[str, Any]
CHOICE, MATH, EXACT = "choice", "math", "exact"
FORMULA = re.compile(r"[0-9\\^=√π∞]")
"""What an answer holds that math-verify can read. A word without any of it means nothing to math-verify."""
YES_OR_NO = re.compile(r"(yes|no|true|false)\.?", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?]\s+")
PROOF = re.compile(r"(?:^|[:;]\s+)(?:prove|show)\b", re.IGNORECASE)
"""A sentence, or a part of one, that asks for a proof."""


class LeftOut(Exception):
    """A sound row of a set that is not made a row of ours, and why. Rows with the same reason are counted together."""


@dataclass(frozen=True)
class Shape:
    """One form of a set's files.

    columns   the columns that all of its files have
    convert   from a row of such a file to one in copd's own format, without `id`. Raises LeftOut or BadRow
    """

    name: str
    columns: frozenset[str]
    convert: Callable[[Raw], dict[str, Any]]


def text_in(raw: Raw, *names: str) -> str:
    """The text in the first of these columns that holds one. Raises BadRow if none does."""
    for name in names:
        value = raw.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    found = next((name for name in names if name in raw), names[0])
    what = "an empty text" if isinstance(raw.get(found), str) else kind_of(raw.get(found))
    raise BadRow(f"{found} is {what}; accepted: a text")


def list_in(raw: Raw, name: str) -> list[Any]:
    """The list in this column. Raises BadRow for something else, and for a list that is empty or begins with null."""
    value = raw.get(name)
    if not isinstance(value, list | tuple):
        raise BadRow(f"{name} is {kind_of(value)}; accepted: a list")
    if not value or value[0] is None:
        raise BadRow(f"{name} is a list that holds nothing")
    return list(value)


def answer_in(raw: Raw, *names: str) -> str:
    """The answer in the first of these columns that is not empty, out of its tag or box if it stands in one.

    Raises LeftOut if all are empty, BadRow if one holds several answers or something else than a text or a number.
    """
    for name in names:
        value = raw.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadRow(f"{name} is {kind_of(value)}; accepted: a text or a number")
        answer = within(value, partial(final_answer, finished=True)).answer
        if text := str(answer).strip():
            return text
    raise LeftOut("no answer")


def verifier_of(answer: str) -> str:
    """The verifier of ours that compares an answer: a letter, a formula or a number, yes or no. Raises LeftOut."""
    if letter(answer) is not None:
        return CHOICE
    if FORMULA.search(answer):
        return MATH
    if YES_OR_NO.fullmatch(answer):
        return EXACT
    raise LeftOut("the answer is free text, which no verifier can compare")


def without_proof(prompt: str) -> str:
    """The prompt. Raises LeftOut if it asks for a proof, which an answer alone cannot give."""
    last = SENTENCE_END.split(prompt)[-1]
    if "?" not in last and PROOF.search(last):
        raise LeftOut("a proof is asked for, which no verifier can compare")
    return prompt
