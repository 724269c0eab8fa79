"""A run whose batches are refilled: what its record counts, and that it goes on as if it had never stopped."""

import shutil

import pytest
from checkpoints import tensors_of
from records import events
from small_base import easy

import copd
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint

SMALL = [
    "backend=local",
    "method=mixed",
    "model.threads_per_branch=1",
    "schedule={cycles: 1, rl_steps: 3, opd_steps: 0}",
    "budget.rollouts=96",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 12, refill: 3}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
    "checkpoint={every_steps: 1, keep_last: 20}",
]

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def recipe(small_base):
    return load_recipe("demo-paper", [*SMALL, easy("text", "image", "video"), f"model.path={small_base}"])


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return copd.train(recipe, tmp_path_factory.mktemp("refilled") / "run")


def test_the_plan_says_the_most_and_the_ledger_what_was_made(run):
    (ledger,) = events(run, "ledger")
    tries = [update["native/tries"] for update in events(run, "update")]
    assert ledger["planned_rollouts"] == 3 * 4 * 8
    assert ledger["spent"]["mixed"]["rlvr"]["rollouts"] == sum(tries) * 8 < 96
    assert max(tries) > 1
    for update in events(run, "update"):
        kept = update["native/groups_kept"] * update["native/tries"]
        assert kept == pytest.approx(update["native/groups_with_signal"])
        assert update["native/tries"] == 4 or update["native/groups_with_signal"] == 1


def test_the_report_tells_what_was_made(run):
    (ledger,) = events(run, "ledger")
    made = int(ledger["spent"]["mixed"]["rlvr"]["rollouts"])
    assert f"{made} rollouts" in (run / "report.html").read_text()


def test_resuming_is_bit_identical(recipe, run, tmp_path, assert_same, stopped):
    again = tmp_path / "again"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("branches", "report.html"))
    for step in (2, 3):
        shutil.rmtree(again / "checkpoints" / f"step-{step:08d}")
    stopped(again)
    copd.train(recipe, again, resume=True)
    ours, theirs = (latest_checkpoint(folder / "checkpoints") for folder in (again, run))
    assert_same(tensors_of(ours, "mixed"), tensors_of(theirs, "mixed"))
    tried = [[u["native/tries"] for u in events(folder, "update")] for folder in (again, run)]
    assert tried[0] == tried[1]
