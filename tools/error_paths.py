"""Every `raise` of the package, and whether a test reaches it (`make coverage`).

    python tools/error_paths.py [PYTEST ARGUMENT ...]

Runs the fast tests, or those that the arguments name, under coverage: in the processes of branches and graders too, and
in the commands that tests start. Then prints each place where an error is raised: file:line, the error's class, the
first words of its message, and yes or no. What only passes an error on is one too; the methods that a subclass has to
give are none. Exit status 1 where a test fails or a place is not reached.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FAST = ("-n", "2", "--dist", "loadfile", "-m", "not slow")
ABSTRACT = "NotImplementedError"
LONGEST = 60
"""Characters of a message that are shown."""


class Raise(NamedTuple):
    """A statement that raises an error; its message has the expressions in it as they stand in the source."""

    place: str
    line: int
    error: str
    message: str


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "coverage"
        status = run_tests(sys.argv[1:] or FAST, data)
        lines, missed = table(raises(ROOT / "copd"), executed(data))
    print("\n".join(lines))
    if status:
        print(f"the tests ended with status {status}; their own output is above")
    sys.exit(int(bool(status or missed)))


def run_tests(arguments: Sequence[str], data: Path) -> int:
    """The exit status of pytest; what its processes executed lies beside `data`, a file for each."""
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)}).returncode


def executed(data: Path) -> dict[str, set[int]]:
    """The lines that any process executed, by the file's path from the root of the repository."""
    from coverage import Coverage

    measured = Coverage(data_file=str(data), config_file=str(ROOT / "pyproject.toml"))
    measured.combine()
    found = measured.get_data()
    return {os.path.relpath(path, ROOT): set(found.lines(path) or ()) for path in found.measured_files()}


def raises(package: Path) -> list[Raise]:
    """All places of a package that raise an error, in the order of files and lines."""
    return [
        each
        for path in sorted(package.rglob("*.py"))
        for each in raises_of(path.relative_to(package.parent).as_posix(), path.read_text(encoding="utf-8"))
    ]


def raises_of(place: str, source: str) -> Iterator[Raise]:
    """Those of one file. An error that is passed on has the class `again`."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    for node in sorted(statements, key=lambda node: node.lineno):
        arguments = node.exc.args if isinstance(node.exc, ast.Call) else []
        error = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc) if node.exc else ""
        if error != ABSTRACT:
            yield Raise(place, node.lineno, error or "again", " ".join(map(words, arguments))[:LONGEST])


def words(argument: ast.expr) -> str:
    """A text as it is read, with the source of what is put into it in braces; of anything else the source."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr):
        parts = (part if isinstance(part, ast.Constant) else part.value for part in argument.values)
        return "".join(str(p.value) if isinstance(p, ast.Constant) else f"{{{ast.unparse(p)}}}" for p in parts)
    return ast.unparse(argument)


def table(places: list[Raise], lines: Mapping[str, set[int]]) -> tuple[list[str], int]:
    """The lines of the table and of the totals; how many places no test reached."""
    shown, missed = ["| place | error | message | reached |", "|---|---|---|---|"], 0
    for each in places:
        reached = each.line in lines.get(each.place, ())
        missed += not reached
        message = each.message.replace("\n", " ").replace("|", "\\|")
        shown.append(f"| {each.place}:{each.line} | {each.error} | {message} | {'yes' if reached else 'NO'} |")
    return [*shown, "", f"{len(places)} places raise an error; {missed} of them no test reaches"], missed


if __name__ == "__main__":
    main()
