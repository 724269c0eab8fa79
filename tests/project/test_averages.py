"""Averages of weights of the study: each comparison is made once, of the models that the script names."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = {
    "recipe": "demo-paper",
    "rollouts": 40,
    "problems": 3,
    "pass_at": [1],
    "changes": {
        "branches": {name: {"task": {"kind": "digits", "capability": name}} for name in ("text", "image")},
        "sampling": {"prompts_per_step": 2, "rollouts_per_prompt": 2, "max_new_tokens": 20},
        "evaluation": {"validation_problems": 1, "behaviour_problems": 1},
        "optimizer.learning_rate": 1.0e-3,
    },
    "arms": {"mixed": {"method": "mixed", "schedule": {"cycles": 1, "rl_steps": 10, "opd_steps": 0}}},
}


@pytest.mark.slow
def test_the_mean_of_a_trajectory_and_that_of_seeds_are_held_against_the_last_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = ["--file", str(tmp_path / "c.yaml"), "--seeds", "2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["averages", *arguments])
    runpy.run_path(str(ROOT / "studies" / "averages.py"), run_name="__main__")
    for name, models in (("trajectory-0", 5), ("trajectory-1", 5), ("seeds", 2)):
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert found["models"] == models
        assert {cell["model"] for cell in found["accuracies"]} == {"last", "mean"}
        assert {(lead["model"], lead["against"]) for lead in found["differences"]} == {("mean", "last")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    runpy.run_path(str(ROOT / "studies" / "averages.py"), run_name="__main__")
    assert {path: path.stat().st_mtime_ns for path in before} == before
