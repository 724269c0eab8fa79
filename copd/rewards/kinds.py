"""What kind of answer a text is. Kind decides first what is equal; only what has no kind here is left to mathematics.

A quantity is a number, perhaps with a unit. Words are words, not products of their letters. A date is a day, not a
difference of three numbers. Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime
from typing import NamedTuple

from copd.rewards.verifiers import LONGEST_TEXT, Number, as_number, same_number

SIGNS = {
    **{"\u2212": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": r"\div "},
    **{"\u00b0": r"^\circ ", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u222a": r"\cup ", "\u2229": r"\cap "},
    **{"\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u00b1": r"\pm ", "\u00b2": "^2", "\u00b3": "^3"},
    **{"\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2044": "/", "\u00a0": " "},
}
"""Characters that are typed instead of LaTeX, and the LaTeX that they stand for."""
TYPED = re.compile("|".join(map(re.escape, SIGNS)))
ROOT = re.compile(r"\u221a\s?(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
SPACE = re.compile(r"\\[,;:! ]|~|\s+")
TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|operatorname)\s?\{([^{}]*)\}")
DEGREE = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\degree")
NAMED = re.compile(r"(?<![\\A-Za-z])(pi|infinity)(?![A-Za-z])")
E_NOTATION = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])")
MEASURED = re.compile(
    r"(?P<before>.*(?P<last>\S))(?P<unit>(?:\\[,;: ]|\s)*\\(?:text|textrm|mathrm|mbox)\s?\{[^{}]*\}(?:\^\{?[23]\}?)?"
    r"|(?<=[\d})\]!])\s+[A-Za-z][A-Za-z/ ]*(?:\^\{?[23]\}?)?)"
)
CURRENCY = {"$": "dollar", "\\$": "dollar", "\u20ac": "euro", "\u00a3": "pound", "\u00a5": "yen"}
QUANTITY = re.compile(
    r"(?P<before>\\?\$|[\u20ac\u00a3\u00a5])?\s?(?P<number>[+-]?[\s\S]*?[\d.})%])(?P<gap>\s*)(?P<unit>[^\W\d_][^\\={}()<>,;:+]*)?"
)
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
PERCENT = {"percent", "per cent", "pct"}
UNITS = {
    name: names.split()[0]
    for names in (
        "m meter metre",
        "cm centimeter centimetre",
        "mm millimeter millimetre",
        "km kilometer kilometre",
        "ft foot feet",
        "in inch inches",
        "mi mile",
        "yd yard",
        "square",
        "sq",
        "cubic",
        "g gram gramme",
        "mg milligram",
        "kg kilogram",
        "lb lbs",
        "s sec second",
        "ms millisecond",
        "min minute",
        "h hr hour",
        "l L liter litre",
        "ml mL milliliter millilitre",
        "mph",
        "K kelvin",
        "N newton",
        "J joule",
        "W watt",
        "V volt",
        "A ampere",
        "Hz hertz",
        "Pa pascal",
        "mol mole",
        "degree deg",
        "C celsius",
        "F fahrenheit",
        "rad radian",
    )
    for name in names.split()
}
"""Names of units, and the one by which each is compared. Plurals are cut. Other units are equal if their names are."""
NO_UNIT = frozenset(
    "and or to of if for when where not over times plus minus mod squared cubed factorial at least most more less than "
    "about pi infinity root sqrt sin cos tan log ln exp dozen half degree_of is are".split()
)
"""Words that say more than a unit does: what they stand in is no quantity."""
WORD = re.compile(r"[^\W\d_]+(?:['\u2019.-][^\W\d_]+)*\.?|[A-Za-z][A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")
FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_?\{?\d{1,3}\}?)?){2,}")
DATES = ("%Y-%m-%d", "%B %d, %Y", "%B %d %Y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y")
SLASHED = re.compile(r"\d{1,2}/\d{1,2}/\d{4}")
BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Quantity(NamedTuple):
    """A number and the unit that it was written with, if any."""

    number: Number
    unit: str = ""


class Words(NamedTuple):
    """Words in their order, as they are spelled."""

    spelled: str


class Listed(NamedTuple):
    """Words with commas between them. In `{}` and without brackets their order does not count."""

    bracket: str
    words: tuple[str, ...]


Kind = Quantity | Words | Listed | date


def judged(answer: str, reference: str) -> bool | None:
    """Whether an answer is right where kinds decide it; None where mathematics must.

    Two quantities are equal if their numbers are, as under `number`, and their units, if both have one. A date equals
    no other kind. Words equal words only, but a word may be a product: whether `ab` is `a \\cdot b` is left open.
    """
    if len({measured(answer)[1], measured(reference)[1]} - {""}) > 1:
        return False
    found, wanted = kind(answer), kind(reference)
    if isinstance(found, Quantity) and isinstance(wanted, Quantity):
        return same_number(found.number, wanted.number)
    if isinstance(found, Words | Listed) and isinstance(wanted, Words | Listed):
        return type(found) is type(wanted) and _comparable(found) == _comparable(wanted)
    if isinstance(found, date) or isinstance(wanted, date):
        return found == wanted
    return None


def kind(text: str) -> Kind | None:
    """The quantity, the date, the words or the list of words that a text is; None for what only mathematics reads."""
    if len(text) > LONGEST_TEXT:
        return None
    bare = _bare(text)
    return _as_date(bare) or as_quantity(bare) or _as_words(bare) or _as_list(bare)


def measured(text: str) -> tuple[str, str]:
    """What stands before a unit, and the unit's name; without a unit all of the text, and an empty name."""
    if quantity := as_quantity(_bare(text)) if len(text) <= LONGEST_TEXT else None:
        return text, quantity.unit
    match = MEASURED.fullmatch(text.strip())
    unit = _unit(_bare(match["unit"]), any_word=match["last"] in "0123456789}") if match else None
    return (match["before"], unit) if match and unit else (text, "")


def expression(text: str) -> str:
    """The text as LaTeX for mathematics: typed signs as commands, 6e23 as a product, no unit behind it."""
    plain = E_NOTATION.sub(r"\1 \\times 10^{\2}", latex(measured(text)[0]))
    plain = NAMED.sub(lambda found: {"pi": r"\pi ", "infinity": r"\infty "}[found[1]], plain)
    return DEGREE.sub("", plain)


def latex(text: str) -> str:
    """The text with typed characters, such as the degree sign, as LaTeX."""
    text = ROOT.sub(lambda found: rf"\sqrt{{{found[1] or found[2]}}}", text)
    return TYPED.sub(lambda found: SIGNS[found[0]], text)


def _bare(text: str) -> str:
    """The text without what only sets type: fonts, dollar signs around it, kinds of white space."""
    text = latex(text).replace("\\left", "").replace("\\right", "").strip()
    text = TEXT.sub(r" \1 ", text).replace("\\%", "%")
    text = DEGREE.sub(" degree ", text)
    text = SPACE.sub(" ", text).strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text


def as_quantity(bare: str) -> Quantity | None:
    """A number with a unit, a sign of currency or a power in words, such as `3 million`; None for anything else."""
    match = QUANTITY.fullmatch(bare)
    number = as_number(match["number"]) if match else None
    if match is None or number is None:
        return None
    unit = " ".join((match["unit"] or "").rstrip(" .").split())
    if not unit:
        return Quantity(number, CURRENCY.get(match["before"] or "", ""))
    if unit.casefold() in PERCENT:
        return None if number.percent or match["before"] else Quantity(number._replace(percent=True))
    power, _, rest = unit.partition(" ")
    if power in POWERS and match["gap"]:
        number, unit = number._replace(bare=number.bare * 10 ** POWERS[power]), rest
    named = _unit(unit, any_word=bool(match["gap"])) if unit else ""
    before = CURRENCY.get(match["before"] or "", "")
    if named is None or (before and named) or (len(unit) == 1 and not match["gap"]):
        return None
    return Quantity(number, named or before)


def _unit(text: str, *, any_word: bool) -> str | None:
    """The name by which a unit is compared; None for what is no unit. With `any_word`, words of three letters are."""
    words = re.findall(r"[^\W\d_]+|\d|/", text.replace(" per ", " / "))
    if not words or re.search(r"[^\w\s/^.{}\-]", text) or NO_UNIT & {word.casefold() for word in words}:
        return None
    names = [UNITS.get(word) or UNITS.get(_singular(word.casefold())) for word in words]
    if not all(name or not word.isalpha() or (any_word and len(word) > 2) for name, word in zip(names, words, strict=True)):
        return None
    plain = [name or _singular(word.casefold()) for name, word in zip(names, words, strict=True)]
    if len(plain) > 1 and plain[0] == "degree":
        plain = plain[1:]
    if len(plain) > 1 and plain[0] in ("square", "cubic", "sq"):
        plain = [*plain[1:], "3" if plain[0] == "cubic" else "2"]
    return " ".join(plain)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _as_words(bare: str) -> Words | None:
    if FORMULA.fullmatch(bare):
        return Words(re.sub(r"[_{}]", "", bare))
    tokens = bare.strip(" .*").split()
    if not tokens or "\\" in bare or not all(WORD.fullmatch(token) for token in tokens):
        return None
    longest = max(sum(map(str.isalpha, token)) for token in tokens)
    return Words(" ".join(tokens)) if longest > 1 and _no_product(tokens) else None


def _no_product(tokens: list[str]) -> bool:
    """Whether hyphens and full stops stand between words. Between single letters they may be signs: x-y."""
    return all(len(part) > 1 for token in tokens if "-" in token for part in token.split("-"))


def _as_list(bare: str) -> Listed | None:
    bracket = bare[:1] if bare[:1] in BRACKETS and bare.endswith(BRACKETS[bare[0]]) else ""
    inside = bare[1:-1] if bracket else bare.replace("\\{", "{").replace("\\}", "}")
    if not bracket and inside[:1] == "{" and inside.endswith("}"):
        bracket, inside = "{", inside[1:-1]
    items = [_as_words(item.strip()) for item in re.split(r",|;", inside)]
    if len(items) < 2 or any(item is None for item in items):
        return None
    return Listed(bracket, tuple(item.spelled for item in items if item))


def _comparable(words: Words | Listed) -> object:
    """What is equal exactly where the words are: case counts in two letters only, since Co is not CO."""
    if isinstance(words, Words):
        return _folded(words.spelled)
    folded = tuple(map(_folded, words.words))
    return (words.bracket, folded) if words.bracket in ("(", "[") else tuple(sorted(folded))


def _folded(spelled: str) -> str:
    folded = spelled.casefold().replace("\u2019", "'").rstrip(".")
    if len(folded) != 2 or folded in ("no", "ok"):
        return folded
    return folded[0] + spelled[1]


def _as_date(bare: str) -> date | None:
    if not 8 <= len(bare) <= 20:
        return None
    for form in DATES:
        with suppress(ValueError):
            return datetime.strptime(bare, form).date()
    return None
