"""The scripts that the documentation names run, at a reduced size, and say what the pages say."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
RUN = {
    "studies/attention.py",
    "studies/memory.py",
    "studies/models_matrix.py",
    "studies/savings.py",
    "studies/scaling.py",
    "benchmarks/grading.py",
    "benchmarks/data_check.py",
}
"""What is run here; tests/project/test_docs.py runs the others."""


def said_by(script: str, *arguments: str) -> str:
    """What a script prints in a process of its own, as a reader starts it."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a script in this process, which has loaded torch; gives the rows of the table that it printed."""

    def run(script: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / script), run_name="__main__")
        _, _, *rows = capsys.readouterr().out.splitlines()
        return rows

    return run


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_every_script_that_a_page_names_is_run_by_a_test():
    named = {
        script for page in PAGES.values() for script in re.findall(r"python ((?:studies|benchmarks)/\w+\.py)", page)
    }
    assert named == RUN


def test_the_sizes_of_the_page_on_memory_are_those_of_the_formula(run_here):
    rows = run_here("studies/memory.py", "--sizes")
    assert len(rows) == 3
    assert all(row in PAGES["memory.md"].splitlines() for row in rows)


@pytest.mark.slow
def test_the_formula_of_memory_is_met_by_the_bytes_counted(run_here):
    rows = [cells(row) for row in run_here("studies/memory.py", "qwen3")]
    told = [cells(line) for line in PAGES["memory.md"].splitlines() if line.startswith("| qwen3 |")]
    assert [row[:4] for row in rows] == [row[:4] for row in told]
    for _, _, quantity, _, _, ratio in rows:
        least, most = (0.8, 1.0) if quantity.startswith("a merge") else (0.9, 1.1)
        assert least < float(ratio) < most, quantity


@pytest.mark.slow
def test_each_way_that_saves_memory_saves_as_much_as_its_page_says():
    """In a process of its own, in which there is one model."""
    rows = [cells(row) for row in said_by("studies/savings.py").splitlines() if row.startswith("| ")][1:]
    told = {row[0]: row for row in map(cells, PAGES["memory.md"].splitlines()) if len(row) == 5}
    assert len(rows) == 8
    for what, _, _, _, ratio in rows:
        assert float(ratio.replace(",", "")) > 0.95 * float(told[what][4].replace(",", "")), what


@pytest.mark.slow
def test_the_matrix_of_models_has_the_paths_of_its_page(run_here):
    rows = [cells(row) for row in run_here("studies/models_matrix.py", "llama", "mamba")]
    told = [cells(line) for line in PAGES["models.md"].splitlines() if line.startswith(("| llama |", "| mamba |"))]
    assert [row[:4] for row in rows] == [row[:4] for row in told]
    assert all(float(row[4]) < 1e-4 for row in rows)


@pytest.mark.slow
def test_what_attention_keeps_and_a_rounded_head_costs_is_as_the_page_says():
    rows = [cells(line) for line in said_by("studies/attention.py").splitlines() if line.startswith("| ")]
    kept, errors = ([row for row in rows if len(row) == size][1:] for size in (3, 4))
    told = [cells(line) for line in PAGES["models.md"].splitlines() if line.startswith("| ")]
    assert len(kept) == 3
    assert all(row in told for row in kept)
    assert [row[0] for row in errors] == ["text", "image", "video"]
    for _, body, tf32, bfloat16 in errors:
        mean = [float(cell.split()[0]) for cell in (tf32, bfloat16, body)]
        assert 5 * mean[0] < mean[1] < mean[2] / 5


@pytest.mark.slow
def test_the_rates_of_grading_are_printed():
    rates = re.findall(
        r"^ *(\d+) (?:responses graded|pairs verified) per second", said_by("benchmarks/grading.py", "1", "8"), re.M
    )
    assert len(rates) == 4
    assert all(int(rate) > 0 for rate in rates)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_check_of_many_rows_is_timed(form):
    said = said_by("benchmarks/data_check.py", "--rows", "2000", "--format", form)
    assert "2000 rows, 0 bad; kinds: text 2000" in said
    assert re.search(r"[\d.]+ s on the clock, [\d.]+ s of CPU time\npeak memory \d+ MiB before, \d+ MiB after", said)


@pytest.mark.slow
def test_the_cycles_of_many_branches_are_those_of_the_page_and_its_picture(run_here):
    rows = run_here("studies/scaling.py")
    told = [line for line in PAGES["cluster.md"].splitlines() if line.startswith(("| hub", "| full", "| neighbours"))]
    assert set(told) < set(rows)
    assert len(told) == 18
