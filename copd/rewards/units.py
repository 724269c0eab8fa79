"""Names of units, as they stand behind a number. Imports no torch: grading processes use it too."""

from __future__ import annotations

import re

NAMES = """
m meter metre, cm centimeter centimetre, mm millimeter millimetre, km kilometer kilometre, nm, dm, ha, ft foot feet,
in inch inches, mi mile, yd yard, g gram gramme, mg milligram, kg kilogram, oz ounce, pound lb lbs, s sec second, ms
millisecond, min minute, h hr hour, yr year, l L liter litre, ml mL milliliter millilitre, gal gallon, K kelvin,
C celsius, F fahrenheit, N newton, kN, J joule, kJ, W watt, kW, V volt, kV, mV, A ampere, mA, eV, Hz hertz, Pa pascal,
mol mole, kB, MB, GB, dB, degree deg, rad radian, square sq, cubic, dollar usd USD, euro eur EUR
"""
KNOWN = {name: names.split()[0] for names in NAMES.split(",") for name in names.split()}
"""The names of common units, without a plural s, and the one by which each is compared."""
PHRASES = """
and or to of if for when where not is are over plus minus mod squared cubed factorial at least most less than about pi
infinity root sqrt sin cos tan sec cot csc arcsin arccos arctan log ln exp gcd lcm max min choose remainder base dozen
half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth
ninths tenth tenths hundredth hundredths thousandth thousandths lakh crore maybe probably
"""
NO_UNIT = frozenset(PHRASES.split())
"""Words that say more than a unit does."""
CURRENCY = {"$": "dollar", "\\$": "dollar", "\u20ac": "euro", "\u00a3": "pound", "\u00a5": "yen"}
"""Signs before a number, and the unit that each stands for."""
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Powers of ten that are written as words."""
WHOLE = {"mph": "mi / h", "kmh": "km / h", "kph": "km / h", "kmph": "km / h"}
"""Abbreviations of several units, and the name by which each is compared."""
PERCENT = frozenset(("percent", "per cent", "pct"))
WORDS = re.compile(r"[^\W\d_]+|-?\d|/")
FOREIGN = re.compile(r"[^\w\s/^.{}\-]")
APART = re.compile(r"(?<![A-Za-z^{\-])\d")
"""A number that is no exponent: what it stands in says more than a unit does, as `1 in 6` or `5 hours 30`."""
VOWEL = re.compile("[aeiouy]", re.IGNORECASE)


def unit_name(text: str, *, any_word: bool) -> str | None:
    """The name by which a unit is compared, such as `km / h`; None if the text is no unit.

    Common units have one name. With `any_word`, any other words of three letters or more are a unit too: `apples`.
    """
    if text in WHOLE:
        return WHOLE[text]
    text = re.sub(r"(?<=\w) (squared|cubed)\b", lambda found: "^2" if found[1] == "squared" else "^3", text)
    words = WORDS.findall(text.replace(" per ", " / "))
    letters = [word for word in words if word.isalpha()]
    if not letters or FOREIGN.search(text) or APART.search(text) or NO_UNIT & {word.casefold() for word in letters}:
        return None
    if "/" not in words and sum(len(word) == 1 for word in letters) > 1:
        return None  # letters apart are a product
    names = [KNOWN.get(word) or (KNOWN.get(_singular(word)) if len(word) > 1 else None) for word in words]
    for name, word in zip(names, words, strict=True):
        if word.isalpha() and not name and not (any_word and len(word) > 2 and VOWEL.search(word)):
            return None
    found = [name or _singular(word) for name, word in zip(names, words, strict=True)]
    if len(found) > 1 and found[0] == "degree":
        del found[0]
    if len(found) > 1 and found[0] in ("square", "cubic"):
        found = [*found[1:], "2" if found[0] == "square" else "3"]
    return " ".join(found)


def _singular(word: str) -> str:
    word = word.casefold()
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
