"""Names of units, and words for numbers, as they stand behind a number.

Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

NAMES = """
m meter metre, cm centimeter centimetre, mm millimeter millimetre, km kilometer kilometre, ft foot feet, in inch inches,
mi mile, yd yard, g gram gramme gm, mg milligram, kg kilogram, oz ounce, lb, s sec second, ms millisecond, min minute,
h hr hour, day, week, month, yr year, l L liter litre, ml mL milliliter millilitre, gal gallon, K kelvin, C celsius,
F fahrenheit,
N newton, J joule, W watt, V volt, A ampere amp, eV, Hz hertz, Pa pascal, mol mole, ohm \u03a9, ha hectare, kB, MB, GB,
TB, dB, rpm, rps, degree deg, rad radian, square sq, cubic cu, dollar usd USD, cent \u00a2, euro eur EUR,
pound-sterling gbp GBP, yen jpy JPY, rupee, pound
"""
PREFIXES = "P T G M k m \u03bc n p"
BASES = "m g s N J W V A Hz Pa mol L l B b bit eV \u03a9 Wh cal bar"
OTHER_SYMBOLS = "Nm Gs gs cm dm hm cL dL dl hPa \u03bcF nF pF \u03bcC"
KNOWN = {name: names.split()[0] for names in NAMES.split(",") for name in names.split()}
"""The names of common units, without a plural s, and the one by which each is compared."""
SYMBOLS = {prefix + base for prefix in PREFIXES.split() for base in BASES.split()} | {*OTHER_SYMBOLS.split()}
"""Symbols of units with a prefix, whose case counts: a mm is no Mm."""
FOLDED: Mapping[str, frozenset[str]] = {
    folded: frozenset(name for name in SYMBOLS | KNOWN.keys() if name.casefold() == folded)
    for folded in {name.casefold() for name in SYMBOLS | KNOWN.keys()}
}
"""The units that a name may mean if its case is ignored."""
MEANT_BY = {"pound": {"lb", "pound-sterling"}}
"""Names of several units, which are equal to each."""
PHRASES = """
and or to of if for when where not is are over plus minus mod modulo squared cubed factorial at least most less than
about pi infinity root sqrt sin cos tan sec cot csc arcsin arccos arctan log ln exp gcd lcm max min choose remainder
base maybe probably below above under short negative loss out in from by divided multiplied ago before after behind bc
ad bce ce am pm gross score grand twice thrice double triple permille permil ppm
undefined impossible imaginary false inverse
actually wrong incorrect wait sorry rather instead otherwise except without never none unless roughly nearly almost
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
january february march april june july august september october november december jan feb mar apr jun jul aug sep sept
oct nov dec
"""
NO_UNIT = frozenset(PHRASES.split())
"""Words that say more than a unit does."""
CURRENCY = {
    "Rs": "rupee",
    "Rs.": "rupee",
    "USD": "dollar",
    "$": "dollar",
    "\\$": "dollar",
    "\u20ac": "euro",
    "\u00a3": "pound-sterling",
    "\u00a5": "yen",
    "\u20b9": "rupee",
}
"""Signs before a number, and the unit that each stands for."""
NO_FACTORS = "JW\u03a9"
"""Bases of units that hardly stand for a number, so that one of them behind a prefix is no product: kJ."""
PRODUCTS = {name for name in SYMBOLS - KNOWN.keys() if len(name) == 2 and name[1] not in NO_FACTORS}
PRODUCTS |= {"mg", "ms", "gm", "ha", "hr", "yr", "mi", "meV", "neV", "peV"}
"""Units whose letters may as well be factors, as in 2mg."""
OF_TWO = (SYMBOLS | KNOWN.keys()) - PRODUCTS
"""Other units; only those of two letters are looked up."""
TOUCHING = frozenset(("m/s", "m/s^2", "mg/dL", "hrs", "yrs", "\u00a2"))
"""Units that are usual where they touch the number, though their letters may be factors."""
LENGTHS = frozenset(("mm", "cm", "km"))
"""The only units of two letters that are read behind letters."""
LARGE = "thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion"
PARTS = "half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
TEENS = "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
TENS = "twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth"
COUNTS = {"hundred": 100, "lakh": 10**5, "crore": 10**7, "dozen": 12}
COUNTS |= {name: 1000**n for n, name in enumerate(LARGE.split(), 1)}
MULTIPLES: Mapping[str, Fraction] = {
    **{name: Fraction(count) for name, count in COUNTS.items()},
    **{f"{name}th": Fraction(1, count) for name, count in COUNTS.items() if name != "dozen"},
    **{name: Fraction(1, n) for n, name in enumerate(PARTS.split(), 2)},
    **{name: Fraction(1, n) for n, name in enumerate(TEENS.split(), 13)},
    **{name: Fraction(1, 10 * n) for n, name in enumerate(TENS.split(), 2)},
    "quarter": Fraction(1, 4),
    "halve": Fraction(1, 2),
}
"""Words behind a number that multiply it, without a plural s."""
WHOLE = {"mph": "mi / h", "kmh": "km / h", "kph": "km / h", "kmph": "km / h"}
"""Abbreviations of several units, and the name by which each is compared."""
PERCENT_WORDS = frozenset(("percent", "per cent", "pct"))
PERCENT = "%"
"""The name by which a per cent sign is compared with units."""
WORDS = re.compile(r"[^\W\d_]+|\u00a2|-?\d|/")
FOREIGN = re.compile(r"[^\w\s/^.{}\-\u00a2]")
APART = re.compile(r"(?<![A-Za-z^{\-])\d")
"""A number that is no exponent: what it stands in says more than a unit does, as `1 in 6` or `5 hours 30`."""
VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
COUNTED = re.compile(r"(?!(?:sin|cos|tan|cot|sec|csc|log|exp)[a-rt-z]$)(?=.*[aeiou]).{4,}", re.IGNORECASE)
"""What may stand behind a number as what it counts. Of three letters only SHORT words do alone: 2 abc is a product."""
SHORT_WORDS = """
man men boy egg cup box bag can jar car bus pen hat cat dog hen pig cow bee ant toy row pie bar ton bit lot set
"""
SHORT = frozenset(SHORT_WORDS.split())
SPELLED_OUT = 4
"""Letters from which on a word is no symbol, so that its case says nothing."""


def unit_name(text: str, *, any_word: bool) -> str | None:
    """The name by which a unit is compared, such as `km / h`; None if the text is no unit.

    Common units have one name. With `any_word`, other words are a unit too: `apples`.
    """
    if text in WHOLE:
        return WHOLE[text]
    text = re.sub(r"(?<=\w) (squared|cubed)\b", lambda found: "^2" if found[1] == "squared" else "^3", text)
    words = WORDS.findall(text.replace(" per ", " / "))
    letters = [word for word in words if word[0] not in "-/0123456789"]
    if not letters or FOREIGN.search(text) or APART.search(text) or any(map(_says_more, letters)):
        return None
    if "/" not in words and sum(len(word) == 1 for word in letters) > 1:
        return None  # letters apart are a product
    found = []
    for word in words:
        name = _known(word) if word in letters else word
        if not name and not (any_word and _is_counted(word, letters)):
            return None
        found.append(name or _singular(word))
    if len(found) > 1 and found[0] == "degree":
        del found[0]
    if len(found) > 1 and found[0] in ("square", "cubic"):
        found = [*found[1:], "2" if found[0] == "square" else "3"]
    return " ".join(found)


def _is_counted(word: str, words: list[str]) -> bool:
    """Whether a word may be part of what is counted, as `red` in `5 red balls`; alone it may be a product."""
    short = len(word) == 3 and VOWEL.search(word) and any(map(COUNTED.fullmatch, words))
    return bool(short or COUNTED.fullmatch(word) or word.casefold() in SHORT)


def touching_unit(text: str, *, letters: bool = False) -> str | None:
    """The name of a unit that touches its number; None if it may be a product, as 5m and 2mg are.

    With `letters`, it stands behind letters, or behind a \\pi, from which LaTeX keeps letters apart: 2\\pi ft.
    """
    words = [word for word in WORDS.findall(text) if word[0] not in "-/0123456789"]
    clear = any(_is_clear(word) and (not letters or len(word) > 2 or word in LENGTHS) for word in words)
    return unit_name(text, any_word=False) if clear or text in TOUCHING else None


def _is_clear(word: str) -> bool:
    return word in OF_TWO if len(word) == 2 else len(word) > 2 and not {word, word.removesuffix("s")} & PRODUCTS


def same_unit(one: str, other: str) -> bool:
    """Whether two units may be the same; a missing one may be any."""
    return not one or not other or one == other or other in MEANT_BY.get(one, ()) or one in MEANT_BY.get(other, ())


def multiple(word: str) -> Fraction | None:
    """What a word behind a number multiplies it by, such as `million` or `hundredths`."""
    folded = word.casefold()
    return MULTIPLES.get(folded) or MULTIPLES.get(folded.removesuffix("s"))


def _says_more(word: str) -> bool:
    folded = word.casefold()
    return (
        (folded in NO_UNIT and word not in KNOWN)
        or multiple(word) is not None
        or folded.endswith(("illionth", "illion"))
    )


def _known(word: str) -> str | None:
    """The name of a common unit; a symbol of a few letters keeps its case, unless only one unit has these letters."""
    for each in (word, word[:-1] if len(word) > 2 and word.endswith("s") else word):
        if each in KNOWN or each in SYMBOLS:
            return KNOWN.get(each, each)
    for folded in (word.casefold(), _singular(word)):
        meant = FOLDED.get(folded, frozenset())
        if len(meant) == 1 and (len(word) >= SPELLED_OUT or not word.islower()) and len(word) > 1:
            (name,) = meant
            return KNOWN.get(name, name)
    return word if word.casefold() in FOLDED and 1 < len(word) < SPELLED_OUT and not word.islower() else None


def _singular(word: str) -> str:
    word = word.casefold()
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word
