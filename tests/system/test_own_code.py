"""A user's own code: found with its hash, run once, and not run if it has changed."""

import pytest

from copd.errors import RecipeError
from copd.system.own_code import find_code, load_code, load_named, loaded, running
from copd.system.signals import Ended, handled_by

FILE = """
from copd.system.own_code import running

DURING = running()


def f():
    return DURING


class C:
    pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_file_is_run_once_and_may_hold_several_things(file):
    f, c = (load_code(find_code(f"{file}:{name}", "merge.method")) for name in ("f", "C"))
    assert f.__module__ == c.__module__
    assert load_code(find_code(f"{file}:f", "x")) is f


def test_it_is_known_which_file_is_being_run(file):
    assert load_named(f"{file}:f", "merge.method")() == str(file)
    assert running() is None


def test_finding_code_runs_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit")
    assert find_code(f"{path}:f", "x").name == "f"


def test_a_file_that_has_changed_since_it_was_found_is_not_run(file):
    code = find_code(f"{file}:f", "merge.method")
    file.write_text("raise SystemExit")
    with pytest.raises(RecipeError, match=r"^merge.method: .*mine.py:f cannot be used: ValueError: .* has changed"):
        loaded(code, "merge.method")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f = 3", "ValueError: .* has no function or class 'f'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ],
)
def test_code_that_cannot_be_used_is_named_with_its_field_and_the_reason_each_time(tmp_path, text, reason):
    path = tmp_path / "mine.py"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(RecipeError, match=rf"^trackers.0: .*mine.py:f cannot be used: {reason}"):
            load_named(f"{path}:f", "trackers.0")


def test_a_signal_while_a_file_is_run_still_ends_the_work(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")

    def end(number, _):
        raise Ended(number)

    with handled_by(end), pytest.raises(Ended):
        load_named(f"{path}:f", "trackers.0")


def test_a_missing_file_is_named_with_its_field():
    with pytest.raises(RecipeError, match=r"^model.family: no file 'none.py'; write path/file.py:NAME"):
        find_code("none.py:F", "model.family")
