"""A run that is killed at random moments becomes what an undisturbed one is."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.minutes
def test_a_run_killed_ten_times_is_bit_for_bit_the_undisturbed_one():
    command = [sys.executable, "tools/soak.py", "--kills", "10", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^10 kills: .*\b[1-9]\d* while a checkpoint was written", done.stdout, re.M), done.stdout


@pytest.mark.slow
@pytest.mark.minutes
def test_a_run_whose_node_is_killed_becomes_the_undisturbed_one():
    command = [sys.executable, "tools/soak.py", "--kills", "1", "--seed", "1", "--backend", "ray", "--victims", "nodes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = ["kills: 1; new beginnings of all branches: 1", "1 runs, 1 of them bit for bit the undisturbed one"]
    assert done.stdout.splitlines()[-2:] == told, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "content", "differs"),
    [
        ("merged/model.safetensors", "5", True),
        ("branches/text/model.safetensors", "4", True),
        ("samples.jsonl", "{}\n", True),
        ("metrics.jsonl", '{"loss": 1.5, "seconds": 1.0}\n', True),
        ("metrics.jsonl", '{"loss": 1.0, "seconds": 2.0}\n', False),
        ("report.html", "of another time", False),
    ],
)
def test_a_run_of_another_byte_is_told_from_the_undisturbed_one(tmp_path, name, content, differs):
    differences = runpy.run_path(str(ROOT / "tools" / "soak.py"))["differences"]
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    for folder in (killed, undisturbed):
        (folder / "merged").mkdir(parents=True)
        (folder / "merged" / "model.safetensors").write_text("4")
        (folder / "samples.jsonl").write_text("")
        (folder / "metrics.jsonl").write_text('{"loss": 1.0, "seconds": 1.0}\n')
    assert differences(killed, undisturbed) == []
    (killed / name).parent.mkdir(parents=True, exist_ok=True)
    (killed / name).write_text(content)
    assert differences(killed, undisturbed) == ([name] if differs else [])
