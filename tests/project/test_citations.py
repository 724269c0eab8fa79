"""What the code cites of docs/method.md is there: its sections, its equations, its traps."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "copd").rglob("*.py"))
NUMBERS = r"(\d+(?:(?:,| and) \d+)*)"
OF_THE_PAGE = re.compile(rf"method\.md,? (eq\.|section|trap)s? {NUMBERS}")
TRAP = re.compile(rf"\b(trap)s? {NUMBERS}")
"""A trap is cited without the page where the docstring has named it before."""
HEADS = {
    "section": re.compile(r"^## (\d+)\. ", re.MULTILINE),
    "eq.": re.compile(r"^\| \((\d+)\) \| ", re.MULTILINE),
    "trap": re.compile(r"^(\d+)\. \*\*", re.MULTILINE),
}
"""How what can be cited begins on the page."""


def plain(text: str) -> str:
    """A source with its lines joined, so that a citation may be broken over two lines of a docstring or comment."""
    return re.sub(r"\s+(?:# )?", " ", text)


def citations(text: str) -> set[tuple[str, int]]:
    """What a source cites: a kind and a number each."""
    found = [*OF_THE_PAGE.findall(plain(text)), *TRAP.findall(plain(text))]
    return {(kind, int(number)) for kind, numbers in found for number in re.findall(r"\d+", numbers)}


def unresolved(text: str, page: str) -> set[tuple[str, int]]:
    """The citations of a source that lead to nothing on the page."""
    there = {(kind, int(number)) for kind, head in HEADS.items() for number in head.findall(page)}
    return citations(text) - there


def test_every_citation_leads_to_what_it_names():
    found = {path.relative_to(ROOT).as_posix(): unresolved(path.read_text(encoding="utf-8"), PAGE) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_all_kinds_of_citations_are_found_in_the_code():
    cited = set[tuple[str, int]]().union(*(citations(path.read_text(encoding="utf-8")) for path in SOURCES))
    assert {kind for kind, _ in cited} == set(HEADS)
    assert {("eq.", number) for number in range(1, 5)} <= cited


def test_every_mention_of_the_page_with_a_number_has_the_form_of_a_citation():
    for path in SOURCES:
        text = plain(path.read_text(encoding="utf-8"))
        for mention in re.finditer(r"method\.md[^.;)]{0,12}\d", text):
            assert OF_THE_PAGE.match(text, mention.start()), f"{path.relative_to(ROOT)}: {mention[0]}"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('"""Advantages (method.md eq. 1)."""', set()),
        ('"""Advantages (method.md eq. 1, 5)."""', {("eq.", 5)}),
        ('"""Measures (method.md sections 2\n    and 44)."""', {("section", 44)}),
        ("# as everywhere (method.md,\n    # trap 17)", {("trap", 17)}),
        ('"""Rows that leave do not move the others (trap 99)."""', {("trap", 99)}),
        ('"""DAPO, arXiv 2503.14476, eq. 8."""', set()),
    ],
)
def test_a_citation_of_what_is_not_there_is_found(text, missing):
    assert unresolved(text, PAGE) == missing


def test_sections_equations_and_traps_are_numbered_from_one_without_a_gap():
    for kind, head in HEADS.items():
        numbers = [int(number) for number in head.findall(PAGE)]
        assert numbers == list(range(1, len(numbers) + 1)), kind
