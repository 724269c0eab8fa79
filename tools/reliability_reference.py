"""The second table of docs/reliability.md: the tests that inject each fault (`make docs`).

Which tests they are is told by tools/faults.toml, by name; where they are is looked up.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
MARK = "<!-- Below this line: written by `make docs` from tools/faults.toml. -->\n"


def renewed(page: str) -> str:
    """The page with its second table written anew; raises ValueError where it lacks the mark."""
    before, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE}: lacks the line {MARK!r}, below which the table goes")
    return before + MARK + table(faults(), tests_by_name(ROOT / "tests"))


def faults() -> dict[int, list[str]]:
    """The tests of each fault by its number: their names, some of them as file::name."""
    told = tomllib.loads((ROOT / "tools" / "faults.toml").read_text(encoding="utf-8"))
    return {int(number): names for number, names in told.items()}


def tests_by_name(folder: Path) -> dict[str, list[str]]:
    """The files below `folder` that have a test of each name, as paths from there."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name].append(path.relative_to(folder).as_posix())
    return dict(found)


def table(told: Mapping[int, Iterable[str]], found: Mapping[str, list[str]]) -> str:
    """A row for each file with tests of a fault. Raises ValueError for a test that is nowhere, or in several files."""
    lines = ["", "| fault | file | tests |", "|---|---|---|"]
    for number, names in told.items():
        files = defaultdict(list)
        for name in names:
            file, test = located(name, found)
            files[file].append(f"`{test}`")
        lines += [f"| {number} | [{file}](../tests/{file}) | {', '.join(files[file])} |" for file in files]
    return "\n".join(lines) + "\n"


def located(name: str, found: Mapping[str, list[str]]) -> tuple[str, str]:
    """The file and the name of a test."""
    file, _, test = name.rpartition("::")
    files = [each for each in found.get(test, ()) if not file or each == file]
    if len(files) != 1:
        raise ValueError(f"tools/faults.toml: {name!r} is in {' and '.join(files) or 'no file'} of tests/")
    return files[0], test


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
