"""Names of units, as they stand behind a number. Imports no torch: grading processes use it too."""

from __future__ import annotations

import re

NAMES = """
m meter metre, cm centimeter centimetre, mm millimeter millimetre, km kilometer kilometre, ft foot feet, in inch inches,
mi mile, yd yard, g gram gramme, mg milligram, kg kilogram, lb lbs, s sec second, ms millisecond, min minute, h hr hour,
l L liter litre, ml mL milliliter millilitre, mph, K kelvin, C celsius, F fahrenheit, N newton, J joule, W watt, V volt,
A ampere, Hz hertz, Pa pascal, mol mole, degree deg, rad radian, square sq, cubic
"""
KNOWN = {name: names.split()[0] for names in NAMES.split(",") for name in names.split()}
"""The names of common units, without a plural s, and the one by which each is compared."""
PHRASES = """
and or to of if for when where not is are over times plus minus mod squared cubed factorial at least most more less than
about pi infinity root sqrt sin cos tan log ln exp dozen half
"""
NO_UNIT = frozenset(PHRASES.split())
"""Words that say more than a unit does."""
CURRENCY = {"$": "dollar", "\\$": "dollar", "\u20ac": "euro", "\u00a3": "pound", "\u00a5": "yen"}
"""Signs before a number, and the unit that each stands for."""
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Powers of ten that are written as words."""
PERCENT = frozenset(("percent", "per cent", "pct"))
WORDS = re.compile(r"[^\W\d_]+|\d|/")
FOREIGN = re.compile(r"[^\w\s/^.{}\-]")


def unit_name(text: str, *, any_word: bool) -> str | None:
    """The name by which a unit is compared, such as `km / h`; None if the text is no unit.

    Common units have one name. With `any_word`, any other words of three letters or more are a unit too: `apples`.
    """
    words = WORDS.findall(text.replace(" per ", " / "))
    if not words or FOREIGN.search(text) or NO_UNIT & {word.casefold() for word in words}:
        return None
    names = [KNOWN.get(word) or KNOWN.get(_singular(word)) for word in words]
    if not all(
        name or not word.isalpha() or (any_word and len(word) > 2) for name, word in zip(names, words, strict=True)
    ):
        return None
    found = [name or _singular(word) for name, word in zip(names, words, strict=True)]
    if len(found) > 1 and found[0] == "degree":
        del found[0]
    if len(found) > 1 and found[0] in ("square", "cubic"):
        found = [*found[1:], "2" if found[0] == "square" else "3"]
    return " ".join(found)


def _singular(word: str) -> str:
    word = word.casefold()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
