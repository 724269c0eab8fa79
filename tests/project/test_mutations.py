"""Each important invariant is proven to be tested: the named test fails once the code is broken in the named way.

mutations/ROOM.toml holds what breaks copd/ROOM/, method.toml what breaks the files at the top of copd/. The fast
tests see that each can be run. The slow ones run all, or the sample that the word in the variable MUTATIONS picks.
"""

import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("mutation_server.py")
ROOMS = {path.stem: path for path in sorted(Path(__file__).with_name("mutations").iterdir())}
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
SAMPLE = 60


def named(rooms: Mapping[str, Path]) -> dict[str, tuple[str, dict[str, str]]]:
    """Room and mutation by a name that no other has and no sample changes: its test's, numbered from the second on."""
    found, seen = {}, Counter()
    for room, path in rooms.items():
        for mutation in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]:
            test = mutation["test"].partition("::")[2].partition("[")[0]
            seen[test] += 1
            found[test if seen[test] == 1 else f"{test}-{seen[test]}"] = room, mutation
    return found


def sample(rooms: Mapping[str, str], size: int, pick: str) -> set[str]:
    """The names that a word picks, given the room of each: all are as likely, and each room has its share."""

    def drawn(name: str) -> float:
        return int.from_bytes(sha256(f"{pick} {name}".encode()).digest()[:6]) / 2**48

    names = sorted(rooms, key=lambda name: (rooms[name], drawn(name)))
    return {names[int((drawn("") + i) * len(names) / size)] for i in range(size)}


MUTATIONS = named(ROOMS)
PICK = os.environ.get("MUTATIONS") or "all"
RUN = list(MUTATIONS)
if PICK != "all":
    PICKED = sample({name: room for name, (room, _) in MUTATIONS.items()}, SAMPLE, PICK)
    RUN = [name for name in MUTATIONS if name in PICKED]


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def faults(room: str, mutation: dict[str, str], root: Path) -> Iterator[str]:
    """Why a mutation of a room could not be run."""
    file, old, test = (mutation[key] for key in ("file", "old", "test"))
    folder = "copd/" if room == "method" else f"copd/{room}/"
    if not file.startswith(folder) or (room == "method" and file.count("/") > 1):
        yield f"{file} is not in {folder}: the mutation belongs to another file of mutations"
    text = text_of(root / file)
    if not text:
        yield f"{file} is not there"
    elif text.count(old) != 1:
        yield f"{old!r} must occur exactly once in {file}, not {text.count(old)} times"
    if old == mutation["new"]:
        yield f"{old!r} is replaced by itself"
    path, _, function = test.partition("::")
    if not re.search(rf"^def {re.escape(function.partition('[')[0])}\(", text_of(root / path), re.MULTILINE):
        yield f"there is no test {test}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_mutation_of_a_room_can_be_run(room):
    of_room = [mutation for its, mutation in MUTATIONS.values() if its == room]
    assert [fault for mutation in of_room for fault in faults(room, mutation, ROOT)] == []


def test_every_room_has_mutations():
    rooms = {path.parent.name for path in (ROOT / "copd").glob("*/__init__.py")}
    assert set(ROOMS) - {"method"} == rooms


@pytest.mark.parametrize(
    ("room", "change", "told"),
    [
        ("a", {}, []),
        ("method", {"file": "copd/top.py"}, []),
        ("method", {}, ["copd/a/b.py is not in copd/: the mutation belongs to another file of mutations"]),
        (
            "a",
            {"file": "copd/top.py"},
            ["copd/top.py is not in copd/a/: the mutation belongs to another file of mutations"],
        ),
        ("a", {"file": "copd/a/c.py"}, ["copd/a/c.py is not there"]),
        ("a", {"old": "x", "new": "y"}, ["'x' must occur exactly once in copd/a/b.py, not 2 times"]),
        ("a", {"old": "z"}, ["'z' must occur exactly once in copd/a/b.py, not 0 times"]),
        ("a", {"new": "x + x"}, ["'x + x' is replaced by itself"]),
        ("a", {"test": "tests/test_b.py::test"}, ["there is no test tests/test_b.py::test"]),
        ("a", {"test": "tests/test_c.py::test_b"}, ["there is no test tests/test_c.py::test_b"]),
    ],
)
def test_a_mutation_that_could_not_be_run_is_told(room, change, told, tmp_path):
    for name, text in {
        "copd/a/b.py": "y = x + x\n",
        "copd/top.py": "y = x + x\n",
        "tests/test_b.py": "def test_b(one):\n    pass\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    mutation = {"file": "copd/a/b.py", "old": "x + x", "new": "x", "test": "tests/test_b.py::test_b[1]"}
    assert list(faults(room, {**mutation, **change}, tmp_path)) == told


HUNDRED = {f"test_{i}": "big" if i < 70 else "small" if i < 95 else "tiny" for i in range(100)}


def test_a_sample_is_a_function_of_the_word_that_picks_it():
    assert sample(HUNDRED, 20, "73bcf83") == sample(dict(reversed(HUNDRED.items())), 20, "73bcf83")
    assert sample(HUNDRED, 20, "73bcf83") != sample(HUNDRED, 20, "79dde58")


def test_a_sample_holds_of_each_room_its_share():
    for pick in range(50):
        counts = Counter(HUNDRED[name] for name in sample(HUNDRED, 20, str(pick)))
        assert counts.total() == 20
        assert (counts["big"], counts["small"], counts["tiny"]) in {(14, 5, 1)}


def test_every_mutation_is_in_as_many_samples_as_any_other():
    counts = Counter(name for pick in range(500) for name in sample(HUNDRED, 20, str(pick)))
    assert set(counts) == set(HUNDRED)
    assert all(60 <= count <= 140 for count in counts.values()), counts


class Mutants:
    """A project of which one line is broken at a time, and the process that then runs its tests."""

    def __init__(self, folder: Path, server: subprocess.Popen) -> None:
        self._folder = folder
        self._server = server

    def outcome(self, mutation: dict[str, str], seconds: float = 300) -> tuple[int | None, str]:
        """Pytest's exit status (1: the test failed; None: it did not end in time) and what it said."""
        path = self._folder / mutation["file"]
        original = path.read_text()
        assert original.count(mutation["old"]) == 1, f"{mutation['old']!r} must occur exactly once in {path.name}"
        path.write_text(original.replace(mutation["old"], mutation["new"]))
        try:
            print(seconds, mutation["test"], file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
            assert answer, "the process that runs the tests has ended"
            return tuple(json.loads(answer))
        finally:
            path.write_text(original)


@contextmanager
def mutants_of(folder: Path, libraries: list[str]) -> Iterator[Mutants]:
    """Modules are compiled beforehand and recognised by their content, as a clock may miss a change within a second."""
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(SERVER), *libraries]
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
    with mutants_of(folder, ["pytest"]) as mutants:
        yield mutants


@pytest.mark.parametrize(
    ("new", "status"),
    [
        ("x + 1", 1),
        ("x * x", 0),
        ("x - x", 1),
        ("x +", 4),
        ("undefined", 1),
        ("__import__('os')._exit(3)", 3),
        ("x + x", 0),
    ],
    ids=["caught", "survives", "caught again", "no Python", "raises", "crashes", "no change"],
)
def test_only_a_test_that_fails_has_caught_a_mutation(toy, new, status):
    found, said = toy.outcome({"file": "toy.py", "old": "x + x", "new": new, "test": "test_toy.py::test_of_two"})
    assert found == status, said
    assert ("1 failed" in said) == (status == 1)


def test_a_test_that_hangs_is_ended_and_has_not_caught_a_mutation(toy):
    mutation = {"file": "toy.py", "old": "x + x", "new": "__import__('time').sleep(600)"}
    assert toy.outcome({**mutation, "test": "test_toy.py::test_of_two"}, seconds=1)[0] is None


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
    for name in ("copd", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    with mutants_of(folder, LIBRARIES) as mutants:
        yield mutants


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_mutation_is_caught(mutants, name):
    status, said = mutants.outcome(MUTATIONS[name][1])
    alone = f"alone: python -m pytest -m slow {Path(__file__).relative_to(ROOT)} -k '{name}'"
    assert status == 1, f"the test did not fail; {alone}\n{said}"
