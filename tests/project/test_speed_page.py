"""The page about speed has the table that its results give."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "speed_reference.py"))
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """The cells of the table below its head."""
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_is_that_of_the_results():
    assert TOOL["renewed"](PAGE) == PAGE, "docs/performance.md is not what the results say; `make docs` renews it"
    assert len(rows(PAGE)) == 8


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the lines"):
        TOOL["renewed"]("# Speed\n")
