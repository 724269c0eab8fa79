"""The members of a text: a list, a set, a point or an interval; an equation or an inequality; a ratio.

A text without members is an atom of `copd.rewards.kinds`. Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from copd.rewards.kinds import Atom, Based, Clock, Dashed, Date, Expression, Letters, Phrase, Quantity, Row, Words, atom
from copd.rewards.spelling import FONT, calculable, unquoted

LONGEST = 300
"""Most characters of a text that has members."""
WRAPPINGS, LEVELS = 8, 4
"""Most layers of formatting that are removed, and most levels of members in members. A text with more is a phrase."""
DEPTH = re.compile(r"\\begin|\\end|\\langle|\\rangle|\\?[\[({]|\\?[\])}]")
OPENING = frozenset(("\\begin", "\\langle", "(", "[", "{", "\\(", "\\[", "\\{"))
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\_^])(?:and|or)(?![A-Za-z])")
RELATION = re.compile(
    r"\\(?:leqslant|geqslant|leq|geq|neq|approx|le|ge|ne|lt|gt|in)(?![A-Za-z])|\\not\s?=|[<>!]=|[=<>]",
)
SIGNS = {
    "\\not=": "\\ne",
    "\\lt": "<",
    "\\gt": ">",
    "\\in": "=",
    "!=": "\\ne",
    "\\neq": "\\ne",
    "<=": "\\le",
    ">=": "\\ge",
} | {f"\\{name}{end}": f"\\{name}" for name in ("le", "ge") for end in ("q", "qslant")}
"""Other spellings of a sign. That a letter is in a set says what equality with the set does."""
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne", "\\approx": "\\approx"}
NAME = re.compile(
    r"(?:\\(?!frac)[A-Za-z]+|[A-Za-z]|[A-Z]{2,3})'{0,3}(?:_(?:\{[\w,]+\}|\w))?'{0,3}(?:\([\w, ]+\))?"
    r"|m?\s?\\(?:angle|triangle|overline|vec)\s?\{?[A-Z]{1,3}\}?|\\frac\{d[a-z]\}\{d[a-z]\}|\|[A-Z]{2}\|"
    r"|\\(?:text|mathrm)\s?\{[\w ]+\}(?:_\w)?"
)
"""What an equation may give a value to."""
POINT = re.compile(r"\(\s?([a-z])\s?(?:,\s?([a-z])\s?){1,2}\)")
UNEQUAL = frozenset(("<", ">", "\\le", "\\ge", "\\ne"))
COLON = re.compile(":")
SIGNED = re.compile(r"\\[pm]{2}(?![A-Za-z])")
"""Plus or minus."""
JOINED = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s?\{\s*,?\s*(and|or)\s*,?\s*\}")
WHOLE_FONT = re.compile(FONT)
MARKED = re.compile(r"\$+((?:\\\$|[^$])*)\$+|\*\*([^*]*)\*\*")
"""A formula in dollar signs, which may hold an escaped one, or a text in bold."""
CASES = re.compile(r"(?:\\\{)?\s?\\begin\{(cases|array|aligned|align\*?)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
CONDITION = re.compile(r"\\\{\s?[A-Za-z]\s?(?:\\mid|\\vert|\||:)(.*)\\\}")
PAIRS = (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\{", "\\}"), ("{", "}"), ("\\langle", "\\rangle"))
BRACKETS = {"\\{\\}": "{}", "\\langle\\rangle": "()"}
"""Other spellings of a pair of brackets."""


class Several(NamedTuple):
    """Several texts: `brackets` are those around a point, an interval or a set, empty around a list.

    `joint` says what stands between them: `,`, `and` or `or`.
    """

    text: str
    brackets: str
    items: tuple[str, ...]
    joint: str


class Statement(NamedTuple):
    """Terms with signs of relations between them; an empty first term for `> 5`."""

    text: str
    terms: tuple[str, ...]
    signs: tuple[str, ...]


class Ratio(NamedTuple):
    """Terms with colons between them."""

    terms: tuple[str, ...]


Kind = Several | Statement | Ratio | Atom


@lru_cache(maxsize=4096)
def kind(text: str) -> Kind:
    """What a text in one spelling is."""
    text = unwrapped(text)
    found = atom(text)
    if isinstance(found, Quantity | Date | Clock | Based | Dashed | Row):
        return found
    if len(text) > LONGEST:
        return Phrase(text) if SEPARATOR.search(text) or RELATION.search(text) else found
    made = _structure(text)
    return found if made is None else made if _levels(made) <= LEVELS else Phrase(text)


def _levels(made: Kind) -> int:
    inner = made.items if isinstance(made, Several) else made.terms if isinstance(made, Statement | Ratio) else ()
    return 1 + max(_levels(kind(text)) for text in inner) if inner else 0


def _structure(text: str) -> Kind | None:
    """The members of a text, or what its only member is; None if it has none."""
    text = JOINED.sub(r" \1 ", text)
    if match := CASES.fullmatch(text):
        lines = [line.replace("&", "").strip(" ,") for line in match[2].split("\\\\")]
        return Several(text, "", tuple(filter(None, lines)), ",")
    if match := CONDITION.fullmatch(text):
        return kind(match[1].strip())
    brackets = enclosed(text) or ("", "")
    items, joints = split(text[len(brackets[0]) : len(text) - len(brackets[1])], SEPARATOR)
    if brackets[0] or (joints and len(items) > 1):
        around = "".join(brackets)
        joint = next((word for word in ("or", "and") if word in joints), ",")
        return Several(text, BRACKETS.get(around, around), items, joint)
    if len(SIGNED.findall(text)) == 1:
        both = (SIGNED.sub("+", text), SIGNED.sub("-", text))
        return Several(text, "", both if "\\pm" in text else both[::-1], "and")
    terms, signs = split(text, RELATION)
    if signs and len(terms) == len(signs) + 1 and all(terms[1:]):
        return Statement(text, terms, tuple(SIGNS.get(sign.replace(" ", ""), sign) for sign in signs))
    terms, colons = split(text, COLON)
    if colons and all(isinstance(atom(term), Quantity | Expression | Letters) for term in terms):
        return Ratio(terms)
    return None


def unwrapped(text: str) -> str:
    """The text without fonts, dollar signs and brackets around all of it, if the brackets hold no list."""
    for _ in range(WRAPPINGS):
        before, text = text, unquoted(re.sub(r"(?<!\.)\.$", "", text.strip().rstrip(",;")).strip())
        if (match := WHOLE_FONT.fullmatch(text)) or (match := MARKED.fullmatch(text)):
            text = next(filter(None, match.groups()), "")
        elif (brackets := enclosed(text)) and not CONDITION.fullmatch(text):
            inner = text[len(brackets[0]) : -len(brackets[1])]
            text = inner if inner.strip() and "\\choose" not in inner and not split(inner, SEPARATOR)[1] else text
        if text == before:
            break
    return text


def enclosed(text: str) -> tuple[str, str] | None:
    """The brackets around all of a text."""
    for pair in PAIRS:
        if text.startswith(pair[0]) and text.endswith(pair[1]) and len(text) > len(pair[0] + pair[1]):
            depth = 0
            for match in DEPTH.finditer(text):
                depth += 1 if match[0] in OPENING else -1
                if depth == 0:
                    return pair if match.end() == len(text) else None
    return None


def split(text: str, separator: re.Pattern[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The members of a text between separators outside of brackets, and these separators.

    A member is empty only at the beginning of a relation: `> 5`.
    """
    members, separators, depth, start = [], [], 0, 0
    for match in re.finditer(rf"(?P<bracket>{DEPTH.pattern})|{separator.pattern}", text):
        if match["bracket"]:
            depth = max(0, depth + (1 if match[0] in OPENING else -1))
        elif depth == 0:
            members.append(text[start : match.start()].strip())
            separators.append(match[0])
            start = match.end()
    members.append(text[start:].strip())
    kept = (each for i, each in enumerate(members) if each or (separator is RELATION and i == 0))
    return tuple(kept), tuple(separators)


def is_mathematical(found: Kind) -> bool:
    """Whether mathematics can read all of it."""
    if isinstance(found, Several | Statement):
        texts = found.items if isinstance(found, Several) else found.terms
        return all(is_mathematical(kind(text)) for text in texts if text)
    return isinstance(found, Quantity | Expression | Letters)


def latex_of(found: Kind) -> str:
    """What mathematics is to read."""
    if isinstance(found, Statement):
        terms = [latex_of(kind(term)) if term else "" for term in found.terms]
        return terms[0] + "".join(f" {sign} {term}" for sign, term in zip(found.signs, terms[1:], strict=True))
    if isinstance(found, Several):
        inner = ", ".join(latex_of(kind(item)) for item in found.items)
        return rf"\{{{inner}\}}" if found.brackets == "{}" else f"{found.brackets[:1]}{inner}{found.brackets[1:]}"
    if isinstance(found, Quantity):
        return calculable(re.sub(r"(?<!\\)%", r"\%", found.spelled))
    if isinstance(found, Expression):
        return found.latex
    if isinstance(found, Letters):
        return found.run
    return (
        " ".join(found.signs) if isinstance(found, Row) else found.folded if isinstance(found, Phrase | Words) else ""
    )


def is_name(term: str) -> bool:
    """Whether a term is what an equation gives a value to: a letter, f(x), or a point of letters in their order."""
    if POINT.fullmatch(term):
        letters = re.findall("[a-z]", term)
        return letters == sorted(letters)
    return NAME.fullmatch(term) is not None and term not in ("\\pi", "e", "i", "\\infty", "\\emptyset")


def flipped(statement: Statement) -> Statement:
    """The same statement read from right to left."""
    return Statement(statement.text, statement.terms[::-1], tuple(FLIPPED[sign] for sign in reversed(statement.signs)))


def interval_of(found: Kind) -> str:
    """The interval of an inequality, such as x < 2; empty if it has none."""
    if not isinstance(found, Statement) or "" in found.terms or not {*found.signs} <= {"<", ">", "\\le", "\\ge"}:
        return ""
    if found.signs[0] in (">", "\\ge"):
        found = flipped(found)
    low, high = latex_of(kind(found.terms[0])), latex_of(kind(found.terms[-1]))
    opening, closing = ("(" if found.signs[0] == "<" else "["), (")" if found.signs[-1] == "<" else "]")
    if len(found.terms) == 3:
        return f"{opening}{low}, {high}{closing}"
    if is_name(found.terms[0]):
        return rf"(-\infty, {high}{closing}"
    return rf"{opening}{low}, \infty)" if is_name(found.terms[1]) else ""
