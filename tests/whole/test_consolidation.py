"""CoPD whose cycles end in a consolidation: who is trained from what, what is saved, and that it resumes to the bit."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import tensors_of
from records import events, rollouts_of, weights_at
from safetensors.torch import load_file
from small_base import easy

import copd
from copd.errors import CheckpointError, RecipeError
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint

NAMES = ("text", "image")
RATE = 3e-4
SMALL = [
    "backend=local",
    easy("text", "image"),
    "schedule={cycles: 2, rl_steps: 1, first_rl_steps: 2, opd_steps: 0, restart: merge}",
    "merge={method: distil, steps: 2}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 12}",
    f"opd={{signal: reverse_kl, prompts_per_step: 4, rollouts_per_prompt: 1, learning_rate: {RATE}}}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 1}",
    "checkpoint={every_steps: 1, keep_last: 20}",
]

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def recipe(small_base):
    return lambda *changes: load_recipe("demo-paper", [*SMALL, f"model.path={small_base}", *changes])


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """Two steps of RLVR, two of consolidation, and from the student one and two again."""
    return copd.train(recipe(), tmp_path_factory.mktemp("consolidated") / "run").folder


@pytest.fixture
def assert_resumes(recipe, tmp_path, assert_same, stopped):
    """A finished run that goes on from one of its checkpoints ends with the same bits; gives its last checkpoint."""

    def check(whole, changes, stop):
        folder = tmp_path / "resumed"
        shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("merged", "branches", "report.html"))
        for checkpoint in (folder / "checkpoints").iterdir():
            if checkpoint.name != f"step-{stop:08d}":
                shutil.rmtree(checkpoint)
        stopped(folder)
        copd.train(recipe(*changes), folder, resume=True)
        ours, theirs = (latest_checkpoint(f / "checkpoints") for f in (folder, whole))
        for branch in theirs.branches:
            assert_same(tensors_of(ours, branch), tensors_of(theirs, branch))
        return theirs

    return check


def test_the_student_alone_is_updated_while_the_branches_rest(run, assert_same):
    updates = [(event["step"], event["phase"], event["branch"]) for event in events(run, "update")]
    alone, taught = (0, 1, 4), (2, 3, 5, 6)
    assert [u for u in updates if u[1] == "rlvr"] == [(step, "rlvr", name) for step in alone for name in NAMES]
    assert [u for u in updates if u[1] != "rlvr"] == [(step, "consolidation", "merged") for step in taught]
    for name in NAMES:
        assert_same(weights_at(run, 4, name), weights_at(run, 2, name))


@pytest.mark.slow
def test_weights_that_travel_between_processes_make_the_bits_of_one_process(recipe, run, tmp_path):
    again = copd.train(recipe("backend=processes"), tmp_path / "run").folder
    whole = Path("checkpoints") / "step-00000007"
    for name in (*NAMES, "merged"):
        assert (again / whole / f"{name}.safetensors").read_bytes() == (
            run / whole / f"{name}.safetensors"
        ).read_bytes()
    assert not [path for path in again.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("ended", [2, 5])
def test_the_student_begins_as_the_mean_of_the_branches_in_every_cycle(run, ended):
    """Its first step of Adam moves no weight by more than the learning rate."""
    branches = [weights_at(run, ended, name) for name in NAMES]
    for name, tensor in weights_at(run, ended + 1, "merged").items():
        mean = sum(branch[name].double() for branch in branches) / 2
        assert 0 < float((tensor - mean).abs().max()) < 1.1 * RATE


def test_the_next_cycle_begins_from_the_student(run):
    student = weights_at(run, 4, "merged")
    for branch in NAMES:
        for name, tensor in weights_at(run, 5, branch).items():
            assert float((tensor - student[name]).abs().max()) < 1.1e-4


def test_the_student_is_the_merged_model_and_no_branch(run):
    assert sorted(folder.name for folder in (run / "branches").iterdir()) == sorted(NAMES)
    merged, student = load_file(run / "merged" / "model.safetensors"), weights_at(run, 7, "merged")
    for name in merged.keys() & student.keys():
        assert torch.equal(merged[name], student[name])
    assert merged.keys() & student.keys()
    (result,) = events(run, "result")
    assert list(dict.fromkeys(cell["model"] for cell in result["table"])) == ["base", *NAMES, "merged"]


def test_the_rollouts_of_the_student_count(run):
    (ledger,) = events(run, "ledger")
    assert rollouts_of(ledger) == ledger["planned_rollouts"] == 3 * 2 * 8 + 4 * 2 * 4
    assert ledger["spent"]["merged"]["consolidation"]["rollouts"] == 4 * 2 * 4
    assert ledger["product"] == "merged"


def test_teachers_are_compared_with_the_student_and_the_report_is_written(run):
    assert {(event["student"], event["teacher"]) for event in events(run, "teaching")} == {("merged", n) for n in NAMES}
    assert "consolidation" in (run / "report.html").read_text()


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6], ids=["RLVR", "its end", "consolidation", "the cycle's end", "2nd"])
def test_resuming_is_bit_identical(run, stop, assert_resumes):
    assert set(assert_resumes(run, (), stop).branches) == {*NAMES, "merged"}


@pytest.mark.slow
def test_a_run_that_goes_on_among_held_teachers_is_bit_identical(recipe, tmp_path, assert_resumes):
    changes = [
        "schedule={cycles: 1, rl_steps: 1, opd_steps: 3}",
        "merge={method: mean}",
        "opd={signal: reverse_kl, prompts_per_step: 2, rollouts_per_prompt: 1, teachers: phase_start, anchor: 0.5}",
    ]
    whole = copd.train(recipe(*changes), tmp_path / "whole").folder
    for event in events(whole, "update"):
        if event["phase"] == "opd":
            assert {f"from_{name}/divergence" for name in NAMES} <= set(event)
    assert_resumes(whole, changes, 2)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 4, 5], ids=["before", "in the middle", "after"])
def test_a_run_that_goes_on_in_a_replay_is_bit_identical(recipe, tmp_path, assert_resumes, stop):
    changes = [
        "schedule={cycles: 1, rl_steps: 3, opd_steps: 0}",
        "merge={method: distil, steps: 1}",
        "opd={signal: forward_kl, prompts_per_step: 2, replay: 2}",
    ]
    whole = copd.train(recipe(*changes), tmp_path / "whole").folder
    assert [(e["phase"], e["branch"]) for e in events(whole, "update")][6:] == [
        ("replay", "merged"),
        ("replay", "merged"),
        ("consolidation", "merged"),
    ]
    (ledger,) = events(whole, "ledger")
    assert rollouts_of(ledger) == ledger["planned_rollouts"] == 3 * 2 * 8 + 2 * 2
    assert_resumes(whole, changes, stop)


def test_not_even_by_force_does_a_run_go_on_by_a_schedule_that_gives_its_branches_other_updates(recipe, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = (folder / "manifest.json").read_bytes()
    said = "in the 7 steps that are done each branch has made 3 updates, and the changed recipe gives each 4"
    with pytest.raises(CheckpointError, match=said):
        copd.train(recipe("schedule.first_rl_steps=3"), folder, resume=True, force=True)
    assert (folder / "manifest.json").read_bytes() == before


def test_branches_that_begin_anew_from_their_mean_are_alike_after_one_step(recipe, tmp_path):
    changes = ["merge={method: mean, steps: null}", "schedule={cycles: 2, rl_steps: 2, opd_steps: 0, restart: merge}"]
    folder = copd.train(recipe(*changes), tmp_path / "run").folder
    ends = [weights_at(folder, 2, name) for name in NAMES]
    for branch in NAMES:
        for name, tensor in weights_at(folder, 3, branch).items():
            mean = (ends[0][name].double() + ends[1][name]) / 2
            assert float((tensor - mean).abs().max()) < 1.1e-4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["method=merge_only"], "merge.method: method merge_only computes a model from the experts' weights"),
        (["lora={rank: 2, alpha: 4}"], "merge.method: 'distil' begins with the branches' mean"),
        (["lora={rank: 2, alpha: 4}", "merge={method: mean, steps: null}"], "schedule.restart: is 'merge', but an"),
        (["branches={a: {task: {capability: text}}}"], "merge.method: 'distil' needs at least two branches"),
        (
            ["merge={method: ties, steps: 2}"],
            "merge.steps: method 'ties' takes no steps; it takes weights, scale",
        ),
        (["merge.steps=0"], "merge.steps"),
        (["schedule.first_rl_steps=0"], "schedule.first_rl_steps"),
        (["schedule.restart=student"], "schedule.restart"),
    ],
)
def test_contradictions_are_refused_by_name(changes, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("demo-paper", [*SMALL, *changes])
