"""What is equal under `math`: texts are compared by their kinds, and mathematics decides between expressions only.

Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from copd.rewards.kinds import UNKNOWNS, Atom, Based, Clock, Dashed, Expression, Letters, Quantity, Row, Words, quantity
from copd.rewards.members import (
    UNEQUAL,
    Kind,
    Ratio,
    Several,
    Statement,
    flipped,
    interval_of,
    is_mathematical,
    is_name,
    kind,
    latex_of,
)
from copd.rewards.spelling import spelled
from copd.rewards.units import same_unit
from copd.rewards.verifiers import same_number

LONGEST = 1000
"""Most characters of a text that is read. A longer one equals itself only."""
FUNCTION = re.compile(r"f\([a-z]\)|y")
"""Two names of the values of a function."""
SEVERAL_SETS = re.compile(r"\\(?:cup|cap|setminus|mathbb|emptyset|varnothing|infty)(?![A-Za-z])")
TRUTHS = frozenset(("true", "false", "yes", "no", "t", "f", "right", "wrong", "correct", "incorrect"))
"""Words that each answer a question, so that a list of them has an order."""

SPREAD = ("", "{}")
"""The brackets of several in which no order counts."""

Decide = Callable[[str, str], bool | None]
Verdict = bool | None


def undecided(answer: str, reference: str) -> None:
    """Stands for mathematics where it cannot be asked."""


def judged(answer: str, reference: str, decide: Decide = undecided) -> Verdict:
    """Whether an answer is right; None where only mathematics could tell and `decide` does not.

    `decide` compares two expressions, equations, inequalities or sets in LaTeX.
    """
    if _closed_up(answer) == _closed_up(reference):
        return True
    if max(len(answer), len(reference)) > LONGEST:
        return False
    found, wanted = spelled(answer), spelled(reference)
    return (bool(found) and found == wanted) or _equal(kind(found), kind(wanted), decide)


def _closed_up(text: str) -> str:
    """The text without white space between a number and a letter: `3 m` may be metres or a product, like `3m`."""
    return re.sub(r"(?<=\d)\s+(?=[A-Za-z])", "", text.strip())


def _equal(found: Kind, wanted: Kind, decide: Decide) -> Verdict:
    found, wanted = _set_for(wanted, found), _set_for(found, wanted)
    if isinstance(found, Several) or isinstance(wanted, Several):
        return _equal_several(found, wanted, decide)
    if isinstance(found, Statement) and isinstance(wanted, Statement):
        return _equal_statements(found, wanted, decide)
    if isinstance(found, Statement) or isinstance(wanted, Statement):
        return _worth(found, wanted, decide)
    if isinstance(found, Ratio) or isinstance(wanted, Ratio):
        return _equal_ratios(found, wanted, decide)
    return _equal_atoms(found, wanted, decide)


def _set_for(other: Kind, each: Kind) -> Kind:
    r"""The set in which `each` says that a letter is, if `other` is an inequality of that letter: x \in (-3,3)."""
    if not isinstance(each, Statement) or each.signs != ("=",) or not is_name(each.terms[0]):
        return each
    others = [kind(item) for item in other.items] if isinstance(other, Several) and not other.brackets else [other]
    if not all(isinstance(o, Statement) and UNEQUAL & {*o.signs} and each.terms[0] in o.terms for o in others):
        return each
    value = kind(each.terms[1])
    return value if _is_interval(value) or _is_set(value) else each


def _is_interval(found: Kind) -> bool:
    return isinstance(found, Several) and len(found.items) == 2 and found.brackets not in SPREAD


def _is_set(found: Kind) -> bool:
    """Whether it is an expression of sets, such as a union of intervals."""
    return isinstance(found, Expression) and SEVERAL_SETS.search(found.latex) is not None


def _equal_atoms(found: Atom, wanted: Atom, decide: Decide) -> Verdict:
    numeric = (Quantity, Expression)
    if isinstance(found, numeric) and isinstance(wanted, numeric):
        if not same_unit(found.unit, wanted.unit):
            return False
        one, other = quantity(found), quantity(wanted)
        if one and other and (one.unit == other.unit != "" or (one is found and other is wanted)):
            return same_number(one.number, other.number)
        return decide(latex_of(found), latex_of(wanted))
    if isinstance(found, Dashed) and isinstance(wanted, Dashed):
        return found.numbers == wanted.numbers and same_unit(found.unit, wanted.unit)
    if isinstance(found, Clock) or isinstance(wanted, Clock):
        return _equal_times(found, wanted)
    if isinstance(found, Letters | Row) or isinstance(wanted, Letters | Row):
        return _equal_letters(found, wanted, decide)
    if isinstance(found, Based | Words) and isinstance(wanted, Quantity | Expression):
        found, wanted = wanted, found
    if isinstance(wanted, Based) and isinstance(found, Quantity):
        return found.spelled.lstrip("0") == wanted.digits and not found.unit
    if isinstance(wanted, Words) and isinstance(found, Expression):
        return found.latex.strip() == f"\\{wanted.folded}"
    return type(found) is type(wanted) and found == wanted


def _equal_times(found: Atom, wanted: Atom) -> bool:
    """Half of the day may be on one side only. The full hour is a number if a half stands behind it."""
    clocks = [each for each in (found, wanted) if isinstance(each, Clock)]
    if len(clocks) == 2:
        return clocks[0].parts == clocks[1].parts and len({clock.half for clock in clocks} - {""}) < 2
    number = found if isinstance(found, Quantity) else wanted
    if not isinstance(number, Quantity) or number.unit or not clocks[0].half:
        return False
    return clocks[0].parts == (number.number.value, 0, 0)


def _equal_letters(found: Atom, wanted: Atom, decide: Decide) -> Verdict:
    """Letters in another order are a product in another order only if all of them stand for numbers."""
    runs = [
        "".join(each.signs) if isinstance(each, Row) else each.run
        for each in (found, wanted)
        if isinstance(each, Letters | Row)
    ]
    if len(runs) == 1:
        other = wanted if isinstance(found, Letters | Row) else found
        if isinstance(other, Words):
            return len(runs[0]) > 2 and runs[0].casefold() == other.folded.casefold()
        readable = isinstance(other, Expression) and runs[0].isalpha() and not (runs[0].isupper() or other.unit)
        return decide(latex_of(found), latex_of(wanted)) if readable else False
    if type(found) is type(wanted) or any(run[0].isdigit() for run in runs):
        same = found == wanted
    else:
        same = runs[0] == runs[1]
    return same or (all(UNKNOWNS.fullmatch(run) for run in runs) and type(found) is not Row and decide(*runs))


def _equal_ratios(found: Kind, wanted: Kind, decide: Decide) -> Verdict:
    """A ratio of two equals the fraction of the same two."""
    terms = [each.terms if isinstance(each, Ratio) else _fraction(each) for each in (found, wanted)]
    if len(terms[0]) != len(terms[1]):
        return False
    return _all(_equal(kind(one), kind(other), decide) for one, other in zip(*terms, strict=True))


def _fraction(found: Kind) -> tuple[str, ...]:
    match = re.fullmatch(r"(\d+)/(\d+)|\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))", latex_of(found))
    return tuple(filter(None, match.groups())) if match else ()


def _valued(statement: Statement, decide: Decide) -> tuple[str, Kind] | bool | None:
    """The name and the value of what an equation gives a value to; False if it gives none, None if undecided.

    A chain gives one only if all its links agree. What stands behind a sign of approximation is no more than rounded.
    """
    if UNEQUAL & {*statement.signs}:
        return False
    terms, name, signs = list(statement.terms), "", list(statement.signs)
    if not terms[0] or is_name(terms[0]):
        name, _ = terms.pop(0), signs.pop(0)
    elif is_name(terms[-1]):
        name, _ = terms.pop(), signs.pop()
    if name and any(map(is_name, terms)):
        return False
    if "\\approx" in signs:
        terms = terms[: signs.index("\\approx") + 1]
    kinds = [kind(term) for term in terms]
    agree = _all(_equal(one, other, decide) for one, other in zip(kinds[1:], kinds, strict=False))
    return (re.sub(r"[\s{}]", "", name), kinds[-1]) if agree else agree


def _worth(found: Kind, wanted: Kind, decide: Decide) -> Verdict:
    """Whether one side is the value, or the set, of the other side's equation or inequality."""
    statement, other = (found, wanted) if isinstance(found, Statement) else (wanted, found)
    assert isinstance(statement, Statement)
    valued = _valued(statement, decide)
    if isinstance(valued, tuple):
        return _equal(valued[1], wanted, decide) if statement is found else _equal(found, valued[1], decide)
    if valued is None:
        return None
    inequality = UNEQUAL & {*statement.signs} and statement.terms[0] and is_mathematical(statement)
    if not (inequality and _is_set(other)):
        return False
    return decide(latex_of(found), latex_of(wanted))


def _equal_statements(found: Statement, wanted: Statement, decide: Decide) -> Verdict:
    values = [_valued(each, decide) for each in (found, wanted)]
    if None in values:
        return None
    if isinstance(values[0], tuple) and isinstance(values[1], tuple):
        names = [values[0][0], values[1][0]]
        if names[0] == names[1] or not all(names) or all(map(FUNCTION.fullmatch, names)):
            return _equal(values[0][1], values[1][1], decide)
        if all(isinstance(value[1], Quantity) for value in values if isinstance(value, tuple)):
            return False
    elif any(isinstance(value, tuple) and not value[0] for value in values):
        return False
    word_for_word = [_alike(found, each, decide) for each in (wanted, flipped(wanted))]
    if True in word_for_word:
        return True
    whole = all(each.terms[0] and is_mathematical(each) for each in (found, wanted))
    same_sort = ({*found.signs} <= UNEQUAL and {*wanted.signs} <= UNEQUAL) or {*found.signs} == {*wanted.signs} == {"="}
    return (
        decide(latex_of(found), latex_of(wanted)) if whole and same_sort else None if None in word_for_word else False
    )


def _alike(found: Statement, wanted: Statement, decide: Decide) -> Verdict:
    if found.signs != wanted.signs:
        return False
    pairs = zip(found.terms, wanted.terms, strict=True)
    return _all(
        one == other or (bool(one and other) and _equal(kind(one), kind(other), decide)) for one, other in pairs
    )


def _equal_several(found: Kind, wanted: Kind, decide: Decide) -> Verdict:
    sides = [_several(each, decide) for each in (found, wanted)]
    if None in sides:
        return None
    one, other = sides
    if not isinstance(one, Side) or not isinstance(other, Side):
        return _equal_whole(found, wanted, decide)
    if one.names and other.names and {*one.names} != {*other.names}:
        return False
    if one.names and other.names and len({*one.names}) > 1:
        order = [one.names.index(name) for name in other.names]
        return _all(_equal(one.values[i], value, decide) for i, value in zip(order, other.values, strict=True))
    return _equal_sides(one, other, decide)


class Side:
    """Several values as they are compared: their brackets, what joins them, and their names, if each has one."""

    def __init__(self, brackets: str, joint: str, names: tuple[str, ...], values: Sequence[Kind]) -> None:
        self.brackets, self.joint, self.names, self.values = brackets, joint, names, values
        self.ordered = brackets not in SPREAD or len({*names}) > 1


def _several(found: Kind, decide: Decide) -> Side | bool | None:
    """A list, set or point of values; the value of an equation if it is several; None if undecided."""
    if isinstance(found, Statement):
        valued = _valued(found, decide)
        return _several(valued[1], decide) if isinstance(valued, tuple) else valued
    if isinstance(found, Row):
        return Side("()", ",", (), [kind(sign) for sign in found.signs])
    if not isinstance(found, Several):
        return False
    values: list[Kind] = []
    for item in map(kind, found.items):
        spread = isinstance(item, Several) and not item.brackets and found.brackets in SPREAD
        inner = _several(item, decide) if spread else False
        values.extend(inner.values if isinstance(inner, Side) else [item])
    named = [_valued(value, decide) if isinstance(value, Statement) else ("", value) for value in values]
    if None in named:
        return None
    pairs = [each for each in named if isinstance(each, tuple)]
    if len(pairs) < len(named) or found.brackets:
        return Side(found.brackets, found.joint, (), [*dict.fromkeys(values)] if found.brackets == "{}" else values)
    names = tuple(name or pairs[0][0] for name, _ in pairs)
    if len({*names}) == len(names) > 1 or len({*names}) == 1:
        return Side("", found.joint, names if all(names) else (), [value for _, value in pairs])
    return Side("", found.joint, (), values)


def _equal_sides(one: Side, other: Side, decide: Decide) -> Verdict:
    truths = all(latex_of(value).casefold() in TRUTHS for side in (one, other) for value in side.values)
    worded = any(isinstance(value, Words | Statement) for side in (one, other) for value in side.values)
    if worded and "or" in (one.joint, other.joint) and one.joint != other.joint and not _loose(one, other):
        return False
    if one.ordered or other.ordered or truths:
        brackets = {one.brackets, other.brackets}
        if (len(brackets) > 1 and brackets != {"", "()"}) or len(one.values) != len(other.values):
            return False
        return _all(_equal(f, w, decide) for f, w in zip(one.values, other.values, strict=True))
    return _matched(one.values, other.values, decide)


def _loose(one: Side, other: Side) -> bool:
    """Whether a comma stands for `or` between two inequalities."""
    statements = all(isinstance(value, Statement) for side in (one, other) for value in side.values)
    return statements and {one.joint, other.joint} == {"or", ","}


def _equal_whole(found: Kind, wanted: Kind, decide: Decide) -> Verdict:
    """A side of several and one that is not: an interval and an inequality or a union, or a set of one."""
    one, other = (found, wanted) if isinstance(found, Several) else (wanted, found)
    assert isinstance(one, Several)
    unequal = isinstance(other, Statement) and bool(UNEQUAL & {*other.signs}) and bool(other.terms[0])
    statements = (
        not one.brackets and one.joint != "and" and all(isinstance(kind(item), Statement) for item in one.items)
    )
    if not ((_is_interval(one) and (unequal or _is_set(other))) or (statements and _is_set(other))):
        return False
    if not is_mathematical(one) or not is_mathematical(other):
        return False
    if not statements:
        return decide(latex_of(found), latex_of(wanted))
    intervals = [interval_of(kind(item)) for item in one.items]
    union = r" \cup ".join(intervals)
    if not all(intervals):
        return False
    return decide(union, latex_of(wanted)) if one is found else decide(latex_of(found), union)


def _matched(found: Sequence[Kind], wanted: Sequence[Kind], decide: Decide) -> Verdict:
    """Whether each of one side has its own equal on the other."""
    if len(found) != len(wanted):
        return False
    left, unsure = list(found), False
    for value in wanted:
        verdicts = []
        for i, each in enumerate(left):
            verdicts.append(_equal(each, value, decide))
            if verdicts[-1]:
                del left[i]
                break
        else:
            if None not in verdicts:
                return False
            unsure = True
    return None if unsure else True


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    """False if one is, else None if one is, else True."""
    result: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        result = result and verdict
    return result
