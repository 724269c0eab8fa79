"""The kind of a text without parts: a quantity, words, a date, a time, an expression and others.

Kinds decide first what is equal. Only an expression is left to mathematics, and a text is one only if all of it is
mathematical notation. What has no other kind is a phrase, which equals the same phrase only. Imports no torch:
grading processes use it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from functools import lru_cache, partial
from typing import NamedTuple

from copd.rewards.spelling import DEGREE, FONT, FUNCTIONS, TEXT, bare, calculable
from copd.rewards.units import CURRENCY, KNOWN, NO_UNIT, PERCENT, PERCENT_WORDS, multiple, touching_unit, unit_name
from copd.rewards.verifiers import Number, as_number

POWER = r"(?:\^\{?[23]\}?)?"
PLAIN_UNIT = (
    rf"(?P<gap>(?<=\d)\s+|(?<=[}})\]!])\s*|(?<=\\pi)\s+)(?:[A-Za-z]{{2}}[A-Za-z/ ]*|[A-Za-z]/[A-Za-z ]+){POWER}"
)
BEHIND = re.compile(rf"(?P<before>.*(?P<last>\S))(?P<unit>\s*{FONT}{POWER}|{PLAIN_UNIT})")
"""A unit behind an expression: in a font of text, or apart from what ends it."""
SIGN = r"\\?\$|[\u20ac\u00a3\u00a5\u20b9]"
QUANTITY = re.compile(
    rf"(?P<sign>{SIGN}|(?:Rs\.?|USD)(?=\s?\d))?\s?(?P<number>[+-]?.*?[\d.}})%])(?P<gap>\s*)"
    rf"(?P<unit>(?![eE][+-]?\d)(?:[^\W\d_]|\u00a2)[^\\={{}}()<>,;:+]*|{SIGN})?"
)
MINUS_BEFORE_SIGN = re.compile(rf"-\s?({SIGN})\s?(?=[\d.])")
ORDINAL = frozenset(("st", "nd", "rd", "th"))
WORD = re.compile(r"[^\W\d_]+(?:['\u2019.-][^\W\d_]+)*\.?|[A-Za-z][A-Za-z0-9]{1,30}")
FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_?\{?\d{1,3}\}?)?){2,20}")
BASED = re.compile(r"(\d[0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?)_\s?\{?\s?(\d{1,2}|two|eight|ten|sixteen)\s?\}?")
BASES = {"two": "2", "eight": "8", "ten": "10", "sixteen": "16"}
DATES = ("%Y-%m-%d", "%Y/%m/%d", "%B %d, %Y", "%B %d %Y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y")
MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
OF_A_DATE = re.compile(
    rf"\d{{4}}[-/]\d\d?[-/]\d\d?|(?=.*\d)(?=.*(?i:{MONTHS}))[A-Za-z\d]+[., ]+[A-Za-z\d]+(?:[, ]+\d{{4}})?"
)
LEAP = "2000"
"""A year with all days, for a day without a year."""
SLASHED = re.compile(r"0?(\d{1,2})/0?(\d{1,2})/(\d{4})")
"""A date whose month may be the first or the second number: only the same three numbers are equal."""
CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(?:\s?([AaPp])\.?\s?[Mm]\b\.?)?")
DASHED = re.compile(r"(\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)+)(?:(\s*)([A-Za-z].*)|%)?")
DOTTED = re.compile(r"[vV]?\d+(?:\.\d+){2,}")
EMPHASIS = re.compile(r"^(\*{1,3})([^*]+)\1$")
SHORT_WORDS = "no ok on up go so is it us we he me my by at to of or as an am pm uk tv do in if be hi ox ii iv vi ix xi"
SHORT = frozenset(SHORT_WORDS.split())
"""English words and numerals of two letters; others of two letters may be symbols of elements, or products."""
UNKNOWNS = re.compile(r"[u-z]+")
"""Letters that stand for numbers, whose product has no order."""
PRODUCT = re.compile(
    rf"(?!(?:{SHORT_WORDS.replace(' ', '|')})$)(?:[a-z]{{2}}|[b-df-hj-np-tv-z]{{3,4}}|[a-z]{{1,3}}[A-Z][a-zA-Z]{{0,2}})"
)
"""Letters that may be a product: two that are no word, up to four without a vowel, or small ones before a capital."""
TOKEN = re.compile(r"\s*(\\[A-Za-z]+|\\.|[A-Za-z]+|\d+(?:\.\d*)?|\.\d+|.)")
COMMAND_NAMES = """
frac sqrt binom choose times cdot div ast pm mp over circ infty pi alpha beta gamma delta epsilon varepsilon zeta eta
theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi
Sigma Upsilon Phi Psi Omega cup cap setminus emptyset varnothing mathbb sum prod int lim to infin lfloor rfloor lceil
rceil lvert rvert vert mid overline arctan arcsin arccos sinh cosh tanh sin cos tan cot sec csc ln log lg exp det gcd
lcm max min mod bmod
"""
COMMANDS = frozenset(COMMAND_NAMES.split())
"""Commands of LaTeX that mathematics reads as what they say; a text with another is a phrase."""
WORDS_OF_MATHS = frozenset((*FUNCTIONS.split(), "pi", "inf", "infinity"))
MARK = re.compile(r"\^\s?\{?\s?(?:T\b|\*|\d*[+-]\s?(?:\}|$)|'|\\(?:prime|dagger|top|intercal))|_\{?[^{}]*'")
"""Transposes, conjugates and charges, which are no powers."""
ORDERED = re.compile(r"[A-Z]\^\{-1\}\s?[A-Z]|[A-Z]\s?[A-Z]\^\{-1\}|(?<!\\)([A-Z])([A-Z])\s?-\s?\2\1(?![A-Za-z])")
"""Products of matrices, whose order counts."""
PRIMES = re.compile(r"(?<![A-Za-z\\])([A-Za-z])('{1,4})")


class Quantity(NamedTuple):
    """A number, how it is spelled without its unit, and the unit's name; empty without a unit."""

    number: Number
    spelled: str
    unit: str


class Expression(NamedTuple):
    """Mathematical notation, as LaTeX without its unit, and the unit's name."""

    latex: str
    unit: str


class Date(NamedTuple):
    """A day, spelled in one way."""

    spelled: str


class Clock(NamedTuple):
    """A time of day or a duration in hours, minutes and seconds; `half` is a or p, or empty."""

    parts: tuple[int, ...]
    half: str


class Dashed(NamedTuple):
    """Numbers with dashes between them, such as a range, a score or a month, and their unit."""

    numbers: tuple[Fraction, ...]
    unit: str


class Based(NamedTuple):
    """A number written in a base, which mathematics would not look at."""

    digits: str
    base: str


class Row(NamedTuple):
    """Numbers or single letters with spaces between them, which have an order."""

    signs: tuple[str, ...]


class Words(NamedTuple):
    """Words as they are compared: without the case of their letters."""

    folded: str


class Letters(NamedTuple):
    """Letters that are a word or a product."""

    run: str


class Phrase(NamedTuple):
    """Anything else, as it is compared: without spaces around signs and the case of longer words."""

    folded: str


Atom = Quantity | Expression | Date | Clock | Dashed | Based | Row | Words | Letters | Phrase


@lru_cache(maxsize=4096)
def atom(text: str) -> Atom:
    """What a text in one spelling is, if it has no parts."""
    plain = bare(text)
    if match := BASED.fullmatch(plain):
        return Based(match[1].casefold().lstrip("0"), BASES.get(match[2], match[2]))
    for read in (_as_date, _as_clock, _as_quantity, _as_dashed, _as_row, _as_words):
        if found := read(plain):
            return found
    return _as_expression(text) or Phrase(_normal(plain))


def _as_date(plain: str) -> Date | None:
    if match := SLASHED.fullmatch(plain):
        return Date("/".join(match.groups()))
    plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", plain)
    if not 5 <= len(plain) <= 20 or not OF_A_DATE.fullmatch(plain):
        return None
    plain = re.sub(r"\bSept\b", "Sep", re.sub(r"(?<=[A-Za-z])\.", "", re.sub(r",(?=\S)", ", ", plain)))
    for form in DATES:
        with suppress(ValueError):
            return Date(datetime.strptime(plain, form).date().isoformat())
        with suppress(ValueError):
            return Date(datetime.strptime(f"{plain} {LEAP}", form).date().isoformat().removeprefix(LEAP))
    return None


def _as_clock(plain: str) -> Clock | None:
    match = CLOCK.fullmatch(plain)
    if not match or not (match[2] or match[4]) or any(int(part or 0) > 59 for part in match.group(2, 3)):
        return None
    return Clock(tuple(int(part or 0) for part in match.group(1, 2, 3)), (match[4] or "").casefold())


def _as_quantity(plain: str, reads: Callable[[str], str | None] = touching_unit) -> Quantity | None:
    """`reads` gives the name of a unit that touches its number."""
    plain = re.sub(r"\\mu\s*(?=[A-Za-z])", "\u03bc", plain).replace("\\Omega", "\u03a9")
    plain = MINUS_BEFORE_SIGN.sub(r"\1-", plain)
    match = QUANTITY.fullmatch(plain)
    number = as_number(match["number"]) if match else None
    if match is None or number is None:
        return None
    spelled, unit = match["number"], " ".join((match["unit"] or "").rstrip(" .").split())
    currency = CURRENCY.get(match["sign"] or "", "")
    if currency and number.percent:
        return None
    if unit.casefold() in PERCENT_WORDS:
        return None if number.percent or currency else Quantity(number._replace(percent=True), f"{spelled}%", PERCENT)
    while match["gap"] and (factor := multiple(unit.partition(" ")[0])):
        number, unit = number._replace(bare=number.bare * factor), unit.partition(" ")[2]
        spelled = rf"{spelled} \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}"
    if not unit or (unit in ORDINAL and not match["gap"]):
        return Quantity(number, spelled, currency or (PERCENT if number.percent else ""))
    name = CURRENCY.get(unit) or (unit_name(unit, any_word=True) if match["gap"] else reads(unit))
    return None if name is None or (currency and currency != name) else Quantity(number, spelled, name)


def quantity(found: Quantity | Expression) -> Quantity | None:
    """A quantity, or what a product of a number and letters, such as 5m, is if the letters are a unit."""
    if isinstance(found, Quantity):
        return found
    return None if found.unit else _as_quantity(found.latex, partial(unit_name, any_word=False))


def _as_dashed(plain: str) -> Dashed | Phrase | None:
    if DOTTED.fullmatch(plain):
        return Phrase(plain.casefold())
    match = DASHED.fullmatch(plain)
    if not match:
        return None
    unit: str | None = PERCENT if plain.endswith("%") else ""
    if match[3]:
        unit = unit_name(match[3], any_word=True) if match[2] else touching_unit(match[3])
    return None if unit is None else Dashed(tuple(map(Fraction, match[1].split("-"))), unit)


def _as_row(plain: str) -> Row | None:
    signs = plain.split()
    if match := re.fullmatch(r"(?:\(\s?[A-Za-z]\s?\)\s?){2,}", plain):
        return Row(tuple(re.findall("[A-Za-z]", match[0])))
    if len(signs) < 2:
        return None
    numbers = sum(bool(re.fullmatch(r"[+-]?\d+(?:\.\d+)?", sign)) for sign in signs)
    letters = sum(len(sign) == 1 and sign.isalpha() for sign in signs)
    return Row(tuple(signs)) if numbers + letters == len(signs) and numbers != 1 else None


def _as_words(plain: str) -> Words | Letters | None:
    if FORMULA.fullmatch(plain):
        return Words(_folded(re.sub(r"[_{}]", "", plain)))
    said = EMPHASIS.sub(r"\2", plain).strip(" .").rstrip("!?")
    tokens = said.split()
    if plain.endswith("!") and tokens and len(tokens[-1]) < 4 and tokens[-1].casefold() not in SHORT | {"yes"}:
        return None  # ab! is a factorial
    numbered = len(tokens) > 1 and len(tokens[0]) > 1 and tokens[0].isalpha() and tokens[0].casefold() not in NO_UNIT
    if not tokens or not all(WORD.fullmatch(token) or (numbered and token.isdecimal()) for token in tokens):
        return None
    if any(len(part) == 1 for token in tokens if "-" in token for part in token.split("-")):
        return None  # x-y is a difference
    if tokens[0] in WORDS_OF_MATHS or (
        len(tokens[0]) == 1 and max(sum(map(str.isalpha, token)) for token in tokens) == 1
    ):
        return None
    if len(tokens) == 1 and PRODUCT.fullmatch(tokens[0]):
        return Letters(tokens[0])
    return Words(" ".join(map(_folded, tokens)))


def _as_expression(text: str) -> Expression | None:
    unit, match = "", BEHIND.fullmatch(text)
    if match:
        unit = _unit_behind(match) or ""
        text = match["before"] if unit else text
    text = re.sub(
        r"(?<!_)(?<!_\{)\\(?:operatorname|mathrm|text)\s?\{\s?(" + FUNCTIONS.replace(" ", "|") + r")\s?\}",
        r"\\\1 ",
        text,
    )
    text = TEXT.sub(lambda found: found[1] if _set_upright(found) else found[0], text.strip().strip("$"))
    text = re.sub(r"\\mathrm\b", "", text) if not TEXT.search(text) else text
    if MARK.search(text) or ORDERED.search(text):
        return None
    text = PRIMES.sub(lambda found: f"{found[1]}_{{{'prime' * len(found[2])}}}", text)
    text = calculable(text)
    return Expression(text, unit) if is_notation(text) else None


def _unit_behind(match: re.Match[str]) -> str | None:
    unit, gap = bare(match["unit"]), match["gap"]
    counts = match["last"] in "0123456789}!" or match["before"].endswith(r"\pi")
    if gap is not None and re.search("[A-Za-z]", re.sub(r"\\(?!pi(?![A-Za-z]))[A-Za-z]+", "", match["before"])):
        return touching_unit(unit, letters=True)
    return touching_unit(unit) if gap == "" else unit_name(unit, any_word=counts)


def _set_upright(found: re.Match[str]) -> bool:
    """Whether a font is set around a letter, or around a subscript."""
    return len(found[1].strip()) == 1 or found.string[: found.start()].rstrip("{ ").endswith("_")


def is_notation(latex: str) -> bool:
    """Whether all of a text is mathematical notation: no prose, no code, no command that mathematics would not read."""
    before, subscript = "", re.compile(r"_\s?(?:\{[A-Za-z0-9,]*\}|\\?[A-Za-z]+|\d)")
    latex = re.sub(r"\\mathbb\s?\{?[A-Z]\}?", r"\\emptyset ", subscript.sub("", latex))
    latex = re.sub(r"\\(begin|end)\s?\{[a-z]*matrix\}(?:\{[clr|]*\})?", " ", latex)
    seen = False
    for match in TOKEN.finditer(latex.strip()):
        token, apart = match[1], match[0] != match[1]
        if token[0] == "\\" and token[1:].isalpha():
            if token[1:] not in COMMANDS:
                return False
        elif token.isascii() and token.isalpha():
            if not _is_product(token, apart and before.isalnum(), latex.strip()[match.end() : match.end() + 2]):
                return False
        elif token[0].isdigit() or token[0] == ".":
            if before.isalpha() and before.isascii() and before not in WORDS_OF_MATHS:
                return False  # A12, or `6 feet 2`
            if apart and before[:1].isdigit():
                return False
        elif token not in "+-*/^_=()[]{}|!,&<>" and token not in (
            "\\{",
            "\\}",
            "\\%",
            "\\\\",
            "\\|",
            "\\ ",
            "\\,",
            "%",
        ):
            return False
        seen = seen or token[0].isalnum() or token[0] == "\\"
        before = token
    return seen


def _is_product(run: str, apart: bool, behind: str) -> bool:
    """Whether letters in a row may be a product, and no word: `mgh`, but not the feet of `6 feet`."""
    if run in WORDS_OF_MATHS:
        return True
    apart = apart or (behind[:1] == " " and behind[1:].isalnum())
    return len(run) < 2 or (len(run) < 4 and not apart) or (len(run) == 2 and run not in SHORT | NO_UNIT | KNOWN.keys())


def _folded(word: str) -> str:
    """A word without the case of its letters, unless that says something: Co is not CO, and CO2 is not Co2."""
    folded = word.casefold().replace("\u2019", "'").rstrip(".")
    if len(folded) == 2 and len(word) == 2 and folded not in SHORT:
        return folded[0] + word[1]
    usual = word.islower() or word.isupper() or word.istitle()
    symbols = FORMULA.fullmatch(word) and (not usual or not word.isalpha())
    return word if symbols else folded


def _normal(plain: str) -> str:
    plain = re.sub(r"\s*([^\w\s.'])\s*", r"\1", DEGREE.sub("^\\\\circ", plain).rstrip(" ."))
    plain = re.sub(r"\{(\w)\}", r"\1", plain)
    return re.sub(r"(?<![\\A-Za-z])[A-Za-z]{3,}", lambda found: found[0].casefold(), plain)
