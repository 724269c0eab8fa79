"""The page about faults names tests that exist, and has a line for every fault."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = {int(number): row for number, row in re.findall(r"^\| (\d+) (\|.*)$", PAGE, re.MULTILINE)}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_fault_has_a_row_and_all_but_that_of_servers_a_test():
    assert list(ROWS) == list(range(1, 30))
    assert [number for number, row in ROWS.items() if not NAMED.search(row)] == [28]


@pytest.mark.parametrize("number", ROWS)
def test_the_tests_of_a_fault_exist(number):
    cell = ROWS[number].split(" | ")[2].removesuffix(" |").removesuffix("|").strip()
    found = NAMED.findall(cell)
    assert ", ".join(f"`{file}::{name}`" for file, name in found) == cell
    for file, name in found:
        assert (ROOT / file).is_file(), file
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        assert name in {each.name for each in body if isinstance(each, ast.FunctionDef)}, f"{file}::{name}"
