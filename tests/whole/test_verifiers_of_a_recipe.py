"""A recipe's own reward functions in a run: checked at the start, recorded with their hash, counted when they fail."""

import io
import json
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from rich.console import Console

import copd
from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.signals import SampledToken
from copd.commands.train import train
from copd.errors import CheckpointError, RecipeError
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.recipe.reading import load_recipe
from copd.rewards.grading import Grader
from copd.runs.runlog import read_lines
from copd.runs.screen import Screen
from copd.system.files import sha256
from copd.types import Part, Split

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))

SMALL = [
    "backend=local",
    "method=mixed",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 4}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}",
]
FILE = "def score(response, answer):\n    return {}\n"


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format("1.0"))
    return path


@pytest.fixture
def branch_with(policy, few, problems_of, tmp_path):
    """A branch whose only capability's problems call the verifier "mine", a file that returns the given expression."""
    graders = []

    def make(returned: str, **settings):
        path = tmp_path / "mine.py"
        path.write_text(FILE.format(returned))
        graders.append(Grader({"mine": f"{path}:score"}, deadline_seconds=5, workers=1, **settings))
        twin = policy.clone()
        task = few("text", tuple(replace(problem, verifier="mine") for problem in problems_of["text"]))
        sampling = SamplingSettings(seed=3, max_new_tokens=200, temperature=1.0)
        learner = Learner(twin, learning_rate=1e-3)
        return Branch(
            "text",
            0,
            twin,
            {"text": task},
            sampling,
            capability="text",
            learner=learner,
            settings=SETTINGS,
            grader=graders[-1],
        )

    yield make
    for grader in graders:
        grader.close()


def test_the_hash_of_a_user_s_file_is_recorded_and_a_changed_file_is_not_resumed(mine, tmp_path):
    recipe = load_recipe("demo-paper", [*SMALL, f"verifiers.mine={mine}:score"])
    folder = copd.train(recipe, tmp_path / "run").folder
    source = f"{mine}:score"
    assert json.loads((folder / "manifest.json").read_text())["code_sha256"] == {source: sha256(mine)}
    updates = [line for line in read_lines(folder / "metrics.jsonl") if line["event"] == "update"]
    assert {update["native/grader_failures"] for update in updates} == {0.0}
    copd.train(recipe, folder, resume=True)
    mine.write_text(FILE.format("0.5"))
    with pytest.raises(CheckpointError, match=rf"cannot resume: code_sha256.{source} was '[0-9a-f]{{64}}' and is now"):
        copd.train(recipe, folder, resume=True)


@pytest.mark.parametrize("source", ["none.py:score", "{mine}:other"])
def test_a_verifier_that_cannot_be_used_is_refused_before_anything_is_written(mine, tmp_path, source):
    recipe = load_recipe("demo-paper", [*SMALL, f"verifiers.mine={source.format(mine=mine)}"])
    with pytest.raises(RecipeError, match=r"verifiers\.mine: "):
        train(recipe, tmp_path / "run", screen=Screen(Console(file=io.StringIO())))
    assert not (tmp_path / "run").exists()


def test_what_a_user_s_function_returns_is_the_reward_and_one_is_correct(branch_with):
    rollouts = branch_with("len(response) % 2 * 1.0 + 0.25").collect("text", 0, 3, 4)
    finished_N = rollouts.finished_N
    assert finished_N.any()
    assert set(rollouts.reward_N[finished_N].tolist()) <= {0.25, 1.25}
    assert (rollouts.reward_N[~finished_N] == 0).all()
    assert torch.equal(rollouts.correct_N, rollouts.reward_N >= 1)


def test_failures_reach_the_metrics_of_every_part(branch_with):
    branch = branch_with("float('nan')")
    native, visit = branch.collect("text", 0, 2, 3), branch.collect("text", 1, 1, 3)
    assert native.grader_failures == int(native.finished_N.sum()) > 0
    assert native.reward_N.tolist() == [0.0] * 6
    metrics = branch.update([Part("native", native), Part("from_image", visit, 1.0, branch.score(visit))])
    assert metrics["native/grader_failures"] == native.grader_failures
    assert metrics["from_image/grader_failures"] == visit.grader_failures


def test_the_first_failure_is_shown_with_verifier_problem_and_reason(branch_with):
    said = []
    branch_with("'1.0'", warn=said.append).collect("text", 0, 2, 4)
    (warning,) = said
    assert re.match(r"verifier 'mine' failed on \d of \d responses, first on one to problem 'text/train/0/", warning)
    assert "TypeError: returned '1.0', not a number" in warning


def test_accuracy_does_not_count_the_weight_of_the_format(branch_with, problems_of, few):
    branch = branch_with("0.5", format_weight=0.5)
    rollouts = branch.answer_first(Split.TEST, "text", 3, 4, greedy=False)
    assert rollouts.reward_N.max() > 0
    assert not rollouts.correct_N.any()
