"""The page about faults has a line for every fault, and names tests that exist."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "reliability_reference.py"))
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS, TESTS = (
    re.findall(r"^\| (\d+) \|", part, re.MULTILINE)
    for part in (PAGE.partition(TOOL["MARK"])[0], PAGE.partition(TOOL["MARK"])[2])
)


def test_the_table_of_tests_is_what_the_tests_say():
    assert TOOL["renewed"](PAGE) == PAGE, (
        "docs/reliability.md is not what tools/faults.toml says; `make docs` renews it"
    )


def test_every_fault_has_a_row_and_a_test():
    numbers = [str(number) for number in range(1, 32)]
    assert numbers == ROWS
    assert [str(number) for number in TOOL["faults"]()] == numbers
    assert [number for number in numbers if number not in TESTS] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_c", "'test_c' is in no file of tests/"),
        ("test_b", "'test_b' is in x.py and y.py of tests/"),
        ("z.py::test_b", "'z.py::test_b' is in no file of tests/"),
    ],
)
def test_a_test_that_is_nowhere_or_in_two_files_is_refused_by_name(name, said):
    found = {"test_a": ["x.py"], "test_b": ["x.py", "y.py"]}
    with pytest.raises(ValueError, match=re.escape(said)):
        TOOL["table"]({1: [name]}, found)
    rows = TOOL["table"]({1: ["test_a", "y.py::test_b"], 2: []}, found).splitlines()[3:]
    assert rows == ["| 1 | [x.py](../tests/x.py) | `test_a` |", "| 1 | [y.py](../tests/y.py) | `test_b` |"]


def test_tests_are_found_in_folders_within_folders(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "test_x.py").write_text("def test_a(): ...\ndef helper(): ...\n", encoding="utf-8")
    (tmp_path / "notes.py").write_text("def test_b(): ...\n", encoding="utf-8")
    assert TOOL["tests_by_name"](tmp_path) == {"test_a": ["room/test_x.py"]}
