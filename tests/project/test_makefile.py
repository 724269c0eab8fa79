"""The runs of `make table`, as make would start them; nothing is started."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from copd.recipe.reading import load_recipe

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
EXPERTS = "experts.run=runs/expert"
RUNS = {
    "expert": ["method=expert"],
    "merge_only": ["method=merge_only", EXPERTS],
    "static_opd": ["method=static_opd", EXPERTS],
    "mopd": ["method=mopd", EXPERTS],
    "mopd_mean": ["method=mopd", "mopd.student=mean", EXPERTS],
    "mixed": ["method=mixed"],
    "mixed_batch": ["method=mixed", "mixed.batch=K_times"],
}


def commands(goal: str) -> list[str]:
    """What make would run for a goal."""
    command = ["make", "--no-print-directory", "-n", goal]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def trained(lines: list[str]) -> dict[str, list[str]]:
    """The changes of the demo recipe by run folder, for every training among commands."""
    found = re.findall(r"copd train demo (.*)--out runs/(\w+) --resume", "\n".join(lines))
    return {run: changes.split() for changes, run in found}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_the_table_has_its_own_changes_and_gives_none_to_those_that_it_needs(run):
    needed = ["expert", run] if EXPERTS in RUNS[run] else [run]
    assert trained(commands(f"runs/{run}")) == {name: RUNS[name] for name in needed}
    load_recipe("demo", RUNS[run])


def test_the_table_is_of_all_runs_and_ends_with_one_report_of_them():
    lines = commands("table")
    assert trained(lines) == {"demo": [], **RUNS}
    program, report, *runs = lines[-1].split()
    assert (Path(program).name, report) == ("copd", "report")
    assert sorted(runs) == sorted(f"runs/{run}" for run in ("demo", *RUNS))
