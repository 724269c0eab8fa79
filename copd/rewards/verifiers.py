"""Our own verifiers by name. Each says whether a final answer equals the reference.

Pure and fast functions of two texts.

Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

TOLERANCE = Fraction(1, 10**6)
"""Relative tolerance of `number` for a reference that is not whole. Whole numbers are compared exactly."""
LONGEST_NUMBER, LONGEST_TEXT = 1_000, 10_000
"""Most characters of a number and of a text. A longer text equals none: its normal form may take quadratic time."""

INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
POWER = r"10\s?\^\s?(?:\{{\s?(?P<power{n}>[+-]?\d{{1,3}})\s?\}}|(?P<typed{n}>-?\d{{1,3}}))"
NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?(?:(?P<decimal>{DECIMAL})(?:\\overline\{{(?P<repeated>\d{{1,18}})\}})?"
    rf"(?:[eE](?P<exponent>[+-]?\d{{1,3}})|\s?(?:\\times|\\cdot|\*|\u00d7|\u00b7)\s?{POWER.format(n=1)})?"
    rf"|(?P<ten>{POWER.format(n=2)})"
    rf"|(?:(?P<whole>\d{{1,18}})\s+)?(?P<over>{DECIMAL})\s?/\s?(?P<under>{DECIMAL})"
    rf"|(?P<before>\d{{1,18}})?\s?\\[dt]?frac(?:\s?\{{(?P<upper>{DECIMAL})\}}\s?\{{(?P<lower>{DECIMAL})\}}|\s?(?P<high>\d)\s?(?P<low>\d)))\s?(?P<percent>\\?%)?",
    re.ASCII,
)
POWERS_OF_TEN = ("power1", "typed1", "power2", "typed2")
"""The groups of a power of ten, behind a number and alone."""
LETTER = re.compile(r"\(\s?([A-Ja-j])\s?\)|\[\s?([A-Ja-j])\s?\]|([A-Ja-j])\s?[.:)]?")
WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit)\s?\{(.*)\}|\$(.*)\$|\*\*(.*)\*\*")
WRAPPINGS = 4
"""Most layers of formatting that are removed from a choice."""


class Verdict(NamedTuple):
    """A verifier's verdict on one response: its score, and whether its answer is right."""

    score: float
    correct: bool


def exact(answer: str, reference: str) -> bool:
    """Equal except for white space and the encoding of accents. Case counts. An empty answer equals nothing."""
    if max(len(answer), len(reference)) > LONGEST_TEXT:
        return False
    found, wanted = (" ".join(unicodedata.normalize("NFC", text).split()) for text in (answer, reference))
    return bool(found) and found == wanted


def integer(answer: str, reference: str) -> bool:
    """Equal as whole numbers of at most 18 digits; anything else is wrong."""
    found, wanted = answer.strip(), reference.strip()
    return bool(INTEGER.fullmatch(found) and INTEGER.fullmatch(wanted)) and int(found) == int(wanted)


def number(answer: str, reference: str) -> bool:
    """Equal as numbers: decimals, fractions, thousands separated by commas, exponents of three digits, per cent.

    The arithmetic is exact. A whole reference must be met exactly, any other within a millionth of itself. If only one
    side has a per cent sign, both readings count: 25% equals 0.25 and 25.
    """
    found, wanted = as_number(answer), as_number(reference)
    return found is not None and wanted is not None and same_number(found, wanted)


class Number(NamedTuple):
    """A number as written. With a per cent sign its value is a hundredth of the written number."""

    bare: Fraction
    percent: bool

    @property
    def value(self) -> Fraction:
        return self.bare / 100 if self.percent else self.bare


def same_number(found: Number, wanted: Number) -> bool:
    """Equal as `number` has it. A per cent sign on one side only may be meant or left out."""
    if close(found.bare, wanted.bare):
        return True
    return found.percent != wanted.percent and close(found.value, wanted.value)


def as_number(text: str) -> Number | None:
    """The number that a text spells, or None."""
    if len(text) > LONGEST_NUMBER:
        return None
    plain = (
        text.replace("{,}", ",")
        .replace("\\!", "")
        .replace("\\,", "")
        .replace("\u2212", "-")
        .replace("\u2013", "-")
        .replace("\\bar{", "\\overline{")
    )
    match = NUMBER.fullmatch(plain.strip().strip("$").strip())
    if not match:
        return None
    over = Fraction((match["decimal"] or match["over"] or match["upper"] or match["high"] or "1").replace(",", ""))
    under = Fraction((match["under"] or match["lower"] or match["low"] or "1").replace(",", ""))
    if under == 0:
        return None
    if match["repeated"]:
        if "." not in match["decimal"]:
            return None
        decimals, period = len(match["decimal"].partition(".")[2]), len(match["repeated"])
        over += Fraction(int(match["repeated"]), (10**period - 1) * 10**decimals)
    size = int(match["whole"] or match["before"] or 0) + over / under
    size *= Fraction(10) ** int(next(filter(None, match.group("exponent", *POWERS_OF_TEN)), 0))
    return Number(-size if match["sign"] == "-" else size, match["percent"] is not None)


def close(found: Fraction, wanted: Fraction) -> bool:
    """Equal; where `wanted` is not whole, within `TOLERANCE` of it."""
    return found == wanted or (wanted.denominator > 1 and abs(found - wanted) <= TOLERANCE * abs(wanted))


def choice(answer: str, reference: str) -> bool:
    """The same single letter A to J, in any of its usual spellings: B, b, (B), [B], B), B., B:, \\text{B}, $B$, **B**.

    Several letters, or a letter with anything else, choose nothing.
    """
    found, wanted = letter(answer), letter(reference)
    return found is not None and found == wanted


def letter(text: str) -> str | None:
    """The one letter A to J that a text consists of, as a capital, or None."""
    text = text.strip()
    for _ in range(WRAPPINGS):
        if wrapped := WRAPPED.fullmatch(text):
            text = wrapped[wrapped.lastindex or 0].strip()
    match = LETTER.fullmatch(text)
    return match[match.lastindex or 0].upper() if match else None


AROUND = ("\\boxed{", "<answer>", "</think>")
"""What stands around or before a final answer in a response, and is no part of it."""
VERIFIERS: Mapping[str, Callable[[str, str], bool]] = {
    "exact": exact,
    "integer": integer,
    "number": number,
    "choice": choice,
}
"""The verifiers that need no grading process."""

REFERENCES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "exact": (lambda text: len(text) <= LONGEST_TEXT, f"a text of at most {LONGEST_TEXT} characters"),
    "integer": (lambda text: INTEGER.fullmatch(text.strip()), "a whole number of at most 18 digits"),
    "number": (as_number, "one number, such as 12, -1,234.5, 3/4, 1e3 or 25%"),
    "choice": (letter, "one letter A to J"),
}
"""The references that each verifier can read: a test, and a description."""


def misread(verifier: str, reference: str) -> str | None:
    """Why a verifier cannot read a reference, so that every answer would be wrong; None if it can.

    Also None for `math` and a user's verifiers, since only running them would tell. No verifier of ours reads a
    reference with what stands around a final answer, such as a box.
    """
    if verifier in (*REFERENCES, "math") and (mark := next((mark for mark in AROUND if mark in reference), None)):
        return f"a final answer never holds {mark}; give what stands inside or behind it"
    if verifier not in REFERENCES:
        return None
    reads, accepted = REFERENCES[verifier]
    return None if reads(reference) else f"verifier {verifier} reads {accepted}"
