"""The variants of the study change the program as they say: teachers and advantages without knowledge, candidates."""

import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from copd.commands.compare import Order, plan_of
from copd.model.objectives import DenseObjective

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "studies" / "variants.py"
SMALL = {
    "recipe": "demo-paper",
    "rollouts": 288,
    "problems": 3,
    "pass_at": [1],
    "changes": {
        "branches": {name: {"task": {"kind": "digits", "capability": name}} for name in ("text", "image")},
        "schedule": {"cycles": 1, "rl_steps": 2, "opd_steps": 2},
        "sampling": {"prompts_per_step": 4, "rollouts_per_prompt": 8, "max_new_tokens": 30},
        "optimizer.learning_rate": 1.0e-3,
        "opd": {"prompts_per_step": 2, "rollouts_per_prompt": 4, "teachers": "phase_start"},
        "evaluation": {"validation_problems": 1, "behaviour_problems": 1},
    },
    "arms": {
        name: {} for name in ("lagged", "base_teaches", "self_teaches", "random_sign", "hybrid", "delta_over_std")
    },
}


@pytest.fixture(scope="module")
def variants():
    return runpy.run_path(str(SCRIPT))


def test_random_signs_change_no_size_and_are_drawn_again_the_same(variants):
    delta_MT, logp_MT = torch.randn(2, 40, 30, generator=torch.Generator().manual_seed(0))
    signed_MT = variants["with_random_sign"](delta_MT, logp_MT)
    assert torch.equal(signed_MT.abs(), delta_MT.abs())
    assert 0.4 < float((signed_MT == delta_MT).float().mean()) < 0.6
    assert torch.equal(signed_MT, variants["with_random_sign"](delta_MT, logp_MT))
    assert not torch.equal(signed_MT, variants["with_random_sign"](delta_MT, logp_MT + 1))


def test_only_unlikely_tokens_are_lowered(variants):
    logp_MT = torch.tensor([[0.0, math.log(0.11), math.log(0.09), -9.0]])
    assert variants["below_unlikely"](logp_MT).tolist() == [[0, 0, -1, -1]]


def test_of_a_direct_loss_on_wrong_answers_the_right_ones_are_in_the_denominator_alone(variants, monkeypatch):
    monkeypatch.setattr(DenseObjective, "rows_with_gradient", DenseObjective.rows_with_gradient)
    variants["only_wrong"]()
    tokens_NT = torch.ones(4, 2, dtype=torch.long)
    rollouts = SimpleNamespace(tokens_NT=tokens_NT, correct_N=torch.tensor([True, False, False, True]))
    assert DenseObjective("opd", rollouts, 1.0, None, None).rows_with_gradient().tolist() == [1, 2]


def test_a_result_of_a_changed_program_is_that_of_this_program_alone(variants, tmp_path):
    programs = {arm: variants["program_of"](arm) for arm in variants["CHANGED"]}
    assert len(set(programs.values())) == len(programs)
    text = SCRIPT.read_text()
    changes = {
        "one word of a docstring": ("The other rows count", "All other rows count", set()),
        "what two share": ("def advantages(", "def advantages(*more, ", {"random_sign", "fixed_negative"}),
        "a number": ("UNLIKELY = 0.1", "UNLIKELY = 0.2", {"fixed_negative"}),
        "another's code": ("max(1e-3, ", "max(1e-2, ", {"delta_over_std"}),
    }
    for what, (before, after, changed) in changes.items():
        assert text.count(before) == 1, what
        (tmp_path / "variants.py").write_text(text.replace(before, after))
        now = runpy.run_path(str(tmp_path / "variants.py"))["program_of"]
        assert {arm for arm in programs if now(arm) != programs[arm]} == changed, what


def test_a_job_of_a_changed_program_is_no_job_of_copd_as_it_is(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL))
    order = Order(tmp_path / "c.yaml", (0,), tmp_path, None, print)
    plain, varied = (
        {job.arm: job.fingerprint for job in plan_of(each, search=False)[1] if job.arm}
        for each in (order, replace(order, programs={"hybrid": "0123"}))
    )
    assert {arm for arm in plain if plain[arm] != varied[arm]} == {"hybrid"}


@pytest.mark.slow
def test_each_variant_changes_the_first_lesson_as_it_says(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, SCRIPT, tmp_path / "c.yaml", "--seeds", "1", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lessons = {}
    for arm in SMALL["arms"]:
        (run,) = (tmp_path / "out" / "runs" / "rollouts").glob(f"{arm}-*/seed-0")
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        first = next(e for e in events if e["event"] == "update" and e["phase"] == "opd" and e["branch"] == "text")
        lessons[arm] = {name: first[f"from_image/{name}"] for name in ("delta", "delta_abs", "entropy")}
        assert ("from_image_rlvr/reward" in first) == (arm == "hybrid")
    paper = lessons["lagged"]
    assert paper["delta_abs"] > 0
    assert {lesson["entropy"] for lesson in lessons.values()} == {paper["entropy"]}, "all answer alike until then"
    assert lessons["self_teaches"]["delta_abs"] == 0
    assert lessons["base_teaches"]["delta_abs"] not in (0, paper["delta_abs"])
    assert lessons["random_sign"]["delta_abs"] == pytest.approx(paper["delta_abs"])
    assert lessons["hybrid"] == paper, "rewards come beside the teacher's signal"
    ratio = lessons["delta_over_std"]["delta_abs"] / paper["delta_abs"]
    assert ratio != pytest.approx(1)
    assert lessons["delta_over_std"]["delta"] / paper["delta"] == pytest.approx(ratio), "one factor for all tokens"
    assert lessons["random_sign"]["delta"] != pytest.approx(paper["delta"])
