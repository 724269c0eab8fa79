"""The kind of an answer: a quantity, words, a list of words or a date. It decides first what is equal.

A text of no such kind is left to mathematics. A quantity is a number, perhaps with a unit. Words are words, not
products of their letters. A date is a day, not a difference of three numbers. Imports no torch: grading processes use
it too.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from copd.rewards.units import CURRENCY, NO_UNIT, PERCENT, POWERS, unit_name
from copd.rewards.verifiers import Number, as_number, same_number

LONGEST = 300
"""Most characters of a text that has a kind."""
TYPING = r"""
− -
– -
× \times
· \cdot
⋅ \cdot
÷ \div
° ^\circ
π \pi
∞ \infty
∪ \cup
∩ \cap
≤ \le
≥ \ge
≠ \ne
± \pm
² ^2
³ ^3
½ \frac{1}{2}
¼ \frac{1}{4}
¾ \frac{3}{4}
⁄ /
"""
SIGNS = {line[0]: line[2:] + " " * line[-1].isalpha() for line in TYPING.split("\n") if line}
"""Characters that are typed in the place of LaTeX, and the LaTeX that they stand for."""
TYPED = re.compile("|".join(map(re.escape, SIGNS)))
ROOT = re.compile(r"\u221a\s?(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
NAMED = re.compile(r"(?<![\\A-Za-z])(?:(pi)|infinity)(?![A-Za-z])")
E_NOTATION = re.compile(r"(?<![\w.\\{])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])")
SPACE = re.compile(r"\\[,;:! ]|~|\s+")
FONTS = "text|textbf|textrm|textit|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mbox|emph|operatorname"
FONT = rf"\\(?:{FONTS})\s?\{{([^{{}}]*)\}}"
TEXT, DEGREE = re.compile(FONT), re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\degrees?\b")
POWER = r"(?:\^\{?[23]\}?)?"
PLAIN_UNIT = rf"(?:(?<=[\d}})\]!])|(?<=\\pi))\s+(?:[A-Za-z]{{2}}[A-Za-z/ ]*|[A-Za-z]/[A-Za-z ]+){POWER}"
BEHIND = re.compile(rf"(?P<before>.*(?P<last>\S))(?P<unit>(?:\\[,;: ]|\s)*{FONT}{POWER}|{PLAIN_UNIT})")
"""A unit behind an expression: in a font of text, or apart from what ends it."""
SEVERAL = re.compile(r"[,;]\s|\b(?:and|or)\b")
"""Several answers stand there: a unit behind the last belongs to it alone."""
GROUPED = re.compile(r"(?<=[\d,])\\[,!]\s*(?=\d)")
"""Thin space between the groups of a number's digits."""
QUANTITY = re.compile(
    r"(?P<sign>\\?\$|[\u20ac\u00a3\u00a5])?\s?(?P<number>[+-]?.*?[\d.})%])(?P<gap>\s*)"
    r"(?P<unit>(?![eE][+-]?\d)[^\W\d_][^\\={}()<>,;:+]*)?"
)
WORD = re.compile(r"[^\W\d_]+(?:['\u2019.-][^\W\d_]+)*\.?|[A-Za-z][A-Za-z0-9]{1,30}")
FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_?\{?\d{1,3}\}?)?){2,20}")
BASED = re.compile(r"(\d[0-9A-Fa-f]*)_\s?\{?\s?(\d{1,2})\s?\}?")
DATES = ("%Y-%m-%d", "%Y/%m/%d", "%B %d, %Y", "%B %d %Y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y")
SLASHED = re.compile(r"0?(\d{1,2})/0?(\d{1,2})/(\d{4})")
"""A date whose month may be the first or the second number: only the same three numbers are equal."""
SHORT_WORDS = "no ok on up go so is it us we he me my by at to of or as an am pm uk tv"
SHORT = frozenset(SHORT_WORDS.split())
"""English words of two letters; others of two letters may be symbols of elements, or products."""
PRODUCT = re.compile(rf"(?!(?:{SHORT_WORDS.replace(' ', '|')})$)[a-z]{{2}}|[b-df-hj-np-tv-z]{{2,4}}")
"""Two letters that are no word, or up to four without a vowel: `xy` may be `x` times `y`."""
BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Quantity(NamedTuple):
    """A number, how it is spelled without its unit, and the unit's name; empty without a unit."""

    number: Number
    spelled: str
    unit: str


class Date(NamedTuple):
    """A day, spelled in one way."""

    spelled: str


class Based(NamedTuple):
    """A number written in a base, which mathematics would not look at."""

    digits: str
    base: str


class Words(NamedTuple):
    """Words as they are compared: without the case of their letters."""

    folded: str


class Listed(NamedTuple):
    """Words with commas between them, as they are compared: in the order of the alphabet unless it counts."""

    bracket: str
    folded: tuple[str, ...]


Kind = Quantity | Date | Based | Words | Listed


def judged(answer: str, reference: str) -> bool | None:
    """Whether an answer is right where kinds decide it; None where mathematics must.

    Two quantities are equal if their numbers are, as under `number`, and their units, if both have one. A date equals
    no other kind. Words are compared with words only, since `ab` may be the product of `a` and `b`.
    """
    if _closed_up(answer) == _closed_up(reference):
        return True
    if len({_measured(answer)[1], _measured(reference)[1]} - {""}) > 1:
        return False
    found, wanted = kind(answer), kind(reference)
    if isinstance(found, Quantity) and isinstance(wanted, Quantity):
        return same_number(found.number, wanted.number)
    if isinstance(found, Date) or isinstance(wanted, Date):
        return found == wanted
    for kinds in (Based, (Words, Listed)):
        if isinstance(found, kinds) and isinstance(wanted, kinds):
            return found == wanted
    return None


def kind(text: str) -> Kind | None:
    """The quantity, the date, the words or the list of words that a text is; None for what only mathematics reads."""
    return _kind(text) if len(text) <= LONGEST else None


@lru_cache(maxsize=4096)
def _kind(text: str) -> Kind | None:
    bare = _bare(text)
    if match := BASED.fullmatch(bare):
        return Based(match[1].casefold().lstrip("0"), match[2].casefold())
    return _as_date(bare) or _as_quantity(bare) or _as_list(bare) or _as_words(bare)


def _closed_up(text: str) -> str:
    """The text without white space between a number and a letter: `3 m` may be metres or a product, like `3m`."""
    return re.sub(r"(?<=\d)\s+(?=[A-Za-z])", "", text.strip())


def expression(text: str) -> str:
    """The text as LaTeX for mathematics: typed signs as commands, 6e23 as a product, no unit behind it."""
    plain = E_NOTATION.sub(r"\1 \\times 10^{\2}", _latex(_measured(text)[0]))
    return DEGREE.sub("", NAMED.sub(lambda found: r"\pi " if found[1] else r"\infty ", plain))


def _measured(text: str) -> tuple[str, str]:
    """What stands before a unit, and the unit's name; without a unit all of the text, and an empty name."""
    if len(text) > LONGEST:
        return text, ""
    if isinstance(quantity := kind(text), Quantity):
        return quantity.spelled, quantity.unit
    match = BEHIND.fullmatch(_latex(text).strip())
    if match is None or SEVERAL.search(match["before"]):
        return text, ""
    unit = unit_name(_bare(match["unit"]), any_word=match["last"] in "0123456789}!")
    return (match["before"], unit) if unit else (text, "")


def _latex(text: str) -> str:
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)", r" \\times ", GROUPED.sub("", text))
    text = ROOT.sub(lambda found: rf"\sqrt{{{found[1] or found[2]}}}", text)
    return TYPED.sub(lambda found: SIGNS[found[0]], text)


def _bare(text: str) -> str:
    """The text without what only sets type: fonts, dollar signs around it, kinds of white space."""
    text = _latex(text).replace("\\left", "").replace("\\right", "").replace("\\%", "%")
    text = DEGREE.sub(" degree ", TEXT.sub(r" \1 ", text))
    text = SPACE.sub(" ", text).strip()
    text = re.sub(r"(?<!\\)\$([^$]*)(?<!\\)\$", r"\1", text)
    return text.strip().strip("\"'\u201c\u201d\u2018\u2019").strip()


def _as_quantity(bare: str) -> Quantity | None:
    match = QUANTITY.fullmatch(bare)
    number = as_number(match["number"]) if match else None
    if match is None or number is None:
        return None
    spelled, unit = match["number"], " ".join((match["unit"] or "").rstrip(" .").split())
    currency = CURRENCY.get(match["sign"] or "", "")
    if unit.casefold() in PERCENT:
        return None if number.percent or currency else Quantity(number._replace(percent=True), f"{spelled}\\%", "")
    while match["gap"] and (power := POWERS.get(unit.partition(" ")[0].casefold().removesuffix("s"))):
        number, unit = number._replace(bare=number.bare * 10**power), unit.partition(" ")[2]
        spelled = rf"{spelled} \times 10^{{{power}}}"
    if not unit:
        return Quantity(number, spelled, currency)
    name = unit_name(unit, any_word=bool(match["gap"]))
    if name is None or currency or (len(unit) == 1 and not match["gap"]):
        return None
    return Quantity(number, spelled, name)


def _as_date(bare: str) -> Date | None:
    if match := SLASHED.fullmatch(bare):
        return Date("/".join(match.groups()))
    bare = re.sub(r",(?=\S)", ", ", re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", bare))
    if 8 <= len(bare) <= 20:
        for form in DATES:
            with suppress(ValueError):
                return Date(datetime.strptime(bare, form).date().isoformat())
    return None


def _as_words(bare: str) -> Words | None:
    if FORMULA.fullmatch(bare):
        return Words(_folded(re.sub(r"[_{}]", "", bare)))
    bare = bare.strip(" .*!?")
    bare = bare[1:-1] if bare[:1] == "(" and bare.endswith(")") and "," not in bare else bare
    tokens = bare.split()
    numbered = len(tokens) > 1 and len(tokens[0]) > 1 and tokens[0].isalpha() and tokens[0].casefold() not in NO_UNIT
    if not tokens or not all(WORD.fullmatch(token) or (numbered and token.isdecimal()) for token in tokens):
        return None
    if any(len(part) == 1 for token in tokens if "-" in token for part in token.split("-")):
        return None  # x-y is a difference
    if max(sum(map(str.isalpha, token)) for token in tokens) == 1 or (
        len(tokens) == 1 and PRODUCT.fullmatch(tokens[0])
    ):
        return None  # x y and xy are products
    return Words(" ".join(map(_folded, tokens)))


def _as_list(bare: str) -> Listed | None:
    bare = bare.replace("\\{", "{").replace("\\}", "}")
    bracket = bare[:1] if bare[:1] in BRACKETS and bare.endswith(BRACKETS[bare[0]]) else ""
    parts = re.split(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+", bare[1:-1] if bracket else bare)
    items = [_as_words(item.strip()) for item in parts]
    folded = [item.folded for item in items if item]
    if len(items) < 2 or len(folded) < len(items):
        return None
    return Listed(bracket, tuple(folded)) if bracket in ("(", "[") else Listed("", tuple(sorted(folded)))


def _folded(word: str) -> str:
    """A word without the case of its letters. Of two letters the second keeps its case, since Co is not CO."""
    folded = word.casefold().replace("\u2019", "'").rstrip(".")
    return folded if len(folded) != 2 or len(word) != 2 or folded in SHORT else folded[0] + word[1]
