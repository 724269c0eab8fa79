"""Each important invariant is proven to be tested: the named test fails once the code is broken in the named way."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MUTATIONS = [
    mutation
    for path in sorted((ROOT / "tests" / "mutations").glob("*.toml"))
    for mutation in tomllib.loads(path.read_text())["mutation"]
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    for name in ("copd", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m["test"].split("::")[-1] for m in MUTATIONS])
def test_a_mutation_is_caught(copy, mutation):
    path = copy / mutation["file"]
    original = path.read_text()
    assert original.count(mutation["old"]) == 1, "the mutated text must occur exactly once"
    path.write_text(original.replace(mutation["old"], mutation["new"]))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", mutation["test"]]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        path.write_text(original)
    assert done.returncode == 1, f"the test did not fail:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
