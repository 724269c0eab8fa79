"""Each important invariant is proven to be tested: the named test fails once the code is broken in the named way."""

import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest

ROOT = Path(__file__).parent.parent
MUTATIONS = [
    mutation
    for path in sorted((ROOT / "tests" / "mutations").glob(os.environ.get("MUTATIONS", "*.toml")))
    for mutation in tomllib.loads(path.read_text())["mutation"]
]
AT_ONCE = 2


def copy_of_the_project(folder: Path) -> Path:
    for name in ("copd", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_mutated(copy: Path, mutation: dict[str, str]) -> subprocess.CompletedProcess:
    path = copy / mutation["file"]
    original = path.read_text()
    assert original.count(mutation["old"]) == 1, f"{mutation['old']!r} must occur exactly once in {mutation['file']}"
    path.write_text(original.replace(mutation["old"], mutation["new"]))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", mutation["test"]]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        path.write_text(original)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The run of every mutation, in copies of the project that each hold one mutation at a time."""
    copies: Queue[Path] = Queue()
    for _ in range(AT_ONCE):
        copies.put(copy_of_the_project(tmp_path_factory.mktemp("mutated")))

    def outcome(mutation):
        copy = copies.get()
        try:
            return run_mutated(copy, mutation)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield [pool.submit(outcome, mutation) for mutation in MUTATIONS]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(len(MUTATIONS)), ids=[m["test"].split("::")[-1] for m in MUTATIONS])
def test_a_mutation_is_caught(outcomes, number):
    done = outcomes[number].result()
    assert done.returncode == 1, f"the test did not fail:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
