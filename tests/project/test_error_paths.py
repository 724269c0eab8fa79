"""The tool that finds errors which no test reaches."""

import runpy
from pathlib import Path

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "error_paths.py"))


def test_the_study_finds_every_raise_and_tells_those_that_were_not_executed():
    source = 'def f(x):\n    if x:\n        raise ValueError(f"{x}: bad")\n    raise NotImplementedError\n    raise\n'
    found = list(STUDY["raises_of"]("a.py", source))
    assert [tuple(each) for each in found] == [("a.py", 3, "ValueError", "{x}: bad"), ("a.py", 5, "again", "")]
    lines, missed = STUDY["table"](found, {"a.py": {1, 2, 3}})
    assert missed == 1
    assert [line.split(" | ")[-1] for line in lines[2:4]] == ["yes |", "NO |"]
