"""What finished models of the study still become: each piece is made once, and held against the reference's student."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = {
    "rollouts": 80,
    "problems": 3,
    "pass_at": [1],
    "references": ["one_cycle"],
    "changes": {
        "branches": {name: {"task": {"kind": "digits", "capability": name}} for name in ("text", "image")},
        "sampling": {"prompts_per_step": 1, "rollouts_per_prompt": 2, "max_new_tokens": 20},
        "evaluation": {"validation_problems": 1, "behaviour_problems": 1},
        "optimizer.learning_rate": 1.0e-3,
    },
    "arms": {
        "mixed": {"method": "mixed", "schedule": {"cycles": 1, "rl_steps": 10, "opd_steps": 0}},
        "one_cycle": {
            "schedule": {"cycles": 1, "rl_steps": 15, "opd_steps": 0},
            "merge": {"method": "distil", "steps": 5},
            "opd": {"signal": "reverse_kl", "prompts_per_step": 2, "rollouts_per_prompt": 1},
        },
        "expert": {"method": "expert"},
    },
}


@pytest.mark.slow
def test_each_piece_is_made_once_and_held_against_the_student(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    arguments = ["--file", str(tmp_path / "c.yaml"), "--seeds", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["finishing", *arguments])
    runpy.run_path(str(ROOT / "studies" / "finishing.py"), run_name="__main__")
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "finishing").glob("*.json")}
    assert set(found) == {"scaled-0", "scaled_student-0", "last_mixed-0"}
    for each in found.values():
        assert set(each["accuracy"]) == set(each["one_cycle"]) == {"text", "image", "average"}
    assert found["last_mixed-0"]["how"] == "76 rollouts, then 4"
    assert found["scaled-0"]["how"].startswith("scale ")
    rest = json.loads((tmp_path / "out" / "finishing" / "last_mixed-0" / "rest" / "manifest.json").read_text())
    assert rest["recipe"]["model"]["path"].endswith("last_mixed-0/first/merged")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "finishing").glob("*.json")}
    runpy.run_path(str(ROOT / "studies" / "finishing.py"), run_name="__main__")
    assert {path: path.stat().st_mtime_ns for path in before} == before
