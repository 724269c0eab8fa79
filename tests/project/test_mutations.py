"""Each important invariant is proven to be tested: the named test fails once the code is broken in the named way."""

import compileall
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "mutation_server.py"
MUTATIONS = [
    mutation
    for path in sorted((ROOT / "tests" / "mutations").rglob("*.toml"))
    for mutation in tomllib.loads(path.read_text())["mutation"]
]
LIBRARIES = [
    *(
        "pytest",
        "hypothesis",
        "numpy",
        "scipy.stats",
        "sklearn.datasets",
        "torch",
        "peft",
        "pydantic",
        "yaml",
        "jinja2",
    ),
    *("rich.live", "typer", "PIL.Image", "matplotlib.figure", "pebble", "transformers.models.auto.modeling_auto"),
    *(f"transformers.models.qwen3_vl.{part}_qwen3_vl" for part in ("modeling", "processing")),
]
"""What nearly every test imports, so that it is imported once."""


class Mutants:
    """A project of which one line is broken at a time, and the process that then runs its tests."""

    def __init__(self, folder: Path, server: subprocess.Popen) -> None:
        self._folder = folder
        self._server = server

    def outcome(self, mutation: dict[str, str]) -> tuple[int | None, str]:
        """Pytest's exit status (1: the test failed; None: it did not end) and what it said."""
        path = self._folder / mutation["file"]
        original = path.read_text()
        assert original.count(mutation["old"]) == 1, f"{mutation['old']!r} must occur exactly once in {path.name}"
        path.write_text(original.replace(mutation["old"], mutation["new"]))
        try:
            print(mutation["test"], file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
            assert answer, "the process that runs the tests has ended"
            return tuple(json.loads(answer))
        finally:
            path.write_text(original)


@contextmanager
def mutants_of(folder: Path, libraries: list[str], seconds: float) -> Iterator[Mutants]:
    """Modules are compiled beforehand and recognised by their content, as a clock may miss a change within a second."""
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(SERVER), str(seconds), *libraries]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as server:
        yield Mutants(folder, server)
        server.stdin.close()


TOY = """
def double(x):
    return x + x
"""
TESTS_OF_THE_TOY = """
from toy import double

def test_of_two():
    assert double(2) == 4

def test_of_three():
    assert double(3) == 6
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    (folder / "test_toy.py").write_text(TESTS_OF_THE_TOY)
    with mutants_of(folder, ["pytest"], 5) as mutants:
        yield mutants


@pytest.mark.parametrize(
    ("new", "status"),
    [
        ("x + 1", 1),
        ("x * x", 0),
        ("x - x", 1),
        ("x +", 4),
        ("undefined", 1),
        ("__import__('time').sleep(60)", None),
        ("__import__('os')._exit(3)", 3),
        ("x + x", 0),
    ],
    ids=["caught", "survives", "caught again", "no Python", "raises", "hangs", "crashes", "no change"],
)
def test_only_a_test_that_fails_has_caught_a_mutation(toy, new, status):
    found, said = toy.outcome({"file": "toy.py", "old": "x + x", "new": new, "test": "test_toy.py::test_of_two"})
    assert found == status, said
    assert ("1 failed" in said) == (status == 1)


def test_the_other_tests_are_not_asked(toy):
    mutation = {"file": "toy.py", "old": "x + x", "new": "x * x"}
    assert toy.outcome({**mutation, "test": "test_toy.py::test_of_three"})[0] == 1
    assert toy.outcome({**mutation, "test": "test_toy.py::test_of_four"})[0] == 4


def test_what_is_to_be_mutated_must_be_there_once(toy):
    for old in ("x", "y + y"):
        with pytest.raises(AssertionError, match="must occur exactly once"):
            toy.outcome({"file": "toy.py", "old": old, "new": "0", "test": "test_toy.py::test_of_two"})


@pytest.fixture(scope="module")
def mutants(tmp_path_factory):
    """Of a copy of copd."""
    folder = tmp_path_factory.mktemp("mutated")
    for name in ("copd", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    with mutants_of(folder, LIBRARIES, 300) as mutants:
        yield mutants


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m["test"].split("::")[-1] for m in MUTATIONS])
def test_a_mutation_is_caught(mutants, mutation):
    status, said = mutants.outcome(mutation)
    assert status == 1, f"the test did not fail:\n{said}"
