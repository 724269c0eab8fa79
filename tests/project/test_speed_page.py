"""The page about speed has the table that its results give, with a column that waits for a file of results."""

import json
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


def test_the_last_column_waits_for_its_results(tmp_path):
    nothing = tmp_path / "avx2.json"
    assert {row[-1] for row in rows(TOOL["renewed"](PAGE, on_avx2=nothing))} == {"not measured"}
    results = json.loads(TOOL["MEASURED"].read_text(encoding="utf-8"))
    for row in results["rows"]:
        row |= {"ratio": 4.56, "quartiles": [4.0, 5.0]}
    nothing.write_text(json.dumps(results), encoding="utf-8")
    found = rows(TOOL["renewed"](PAGE, on_avx2=nothing))
    assert {row[-1] for row in found} == {"4.6x [4.0, 5.0]"}
    assert [row[:-1] for row in found] == [row[:-1] for row in rows(PAGE)]


def test_what_the_results_note_of_themselves_stands_before_the_table_until_they_are_measured_anew(tmp_path):
    again = tmp_path / "table.json"
    results = json.loads(TOOL["MEASURED"].read_text(encoding="utf-8"))
    for told in ({"note": "On another code."}, {}):
        results.pop("note", None)
        again.write_text(json.dumps(results | told), encoding="utf-8")
        page = TOOL["renewed"](PAGE, measured=again)
        assert ("On another code.\n\nAMD EPYC" in page) == bool(told)
        assert rows(page) == rows(PAGE)


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the lines"):
        TOOL["renewed"]("# Speed\n")
