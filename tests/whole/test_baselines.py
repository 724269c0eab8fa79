"""The baselines as whole runs: who is trained when, from what, at which rollouts, and that experts are reused."""

import json
import shutil

import pytest
import torch
from checkpoints import tensors_of
from records import events, rollouts_of, weights_at
from safetensors.torch import load_file
from small_base import easy

import copd
from copd.assemble.plan import make_plan
from copd.errors import RecipeError
from copd.measure.ledger import ACTIVITIES
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint, verify_checkpoint
from copd.runs.experts import trajectory

SMALL = [
    "backend=local",
    easy("text", "image"),
    "model.threads_per_branch=1",
    "schedule={cycles: 1, rl_steps: 2, opd_steps: 2}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 12}",
    "opd={prompts_per_step: 2, rollouts_per_prompt: 4}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
    "checkpoint={every_steps: 1, keep_last: 20}",
]
NAMES = ("text", "image")
STATIC = ["method=static_opd", "static_opd={teacher: image, student: text}"]
METHODS = {
    "static_opd": [*STATIC, "budget.rollouts=48"],
    "static_opd with GRPO": [*STATIC, "static_opd.native=true", "budget.rollouts=64"],
    "mopd": ["method=mopd", "budget.rollouts=64"],
    "mopd from the mean": ["method=mopd", "budget.rollouts=64", "mopd.student=mean"],
    "mopd from an expert": ["method=mopd", "budget.rollouts=64", "mopd.student=image"],
}

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def recipe(small_base):
    return lambda *changes: load_recipe("demo-paper", [*SMALL, f"model.path={small_base}", *changes])


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """Each method once, two steps of RLVR and two of OPD."""
    return {
        name: copd.train(recipe(*changes), tmp_path_factory.mktemp("baseline") / "run").folder
        for name, changes in METHODS.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_experts_are_trained_first_then_only_the_student_is(runs, name):
    student = "text" if name.startswith("static") else "student"
    updates = [(event["step"], event["phase"], event["branch"]) for event in events(runs[name], "update")]
    assert {u for u in updates if u[1] == "rlvr"} == {(step, "rlvr", expert) for step in (0, 1) for expert in NAMES}
    assert [u for u in updates if u[1] != "rlvr"] == [(step, "consolidation", student) for step in (2, 3)]


@pytest.mark.parametrize("name", METHODS)
def test_the_teachers_stay_as_they_were_at_the_end_of_their_training(runs, name, assert_same):
    student = "text" if name.startswith("static") else "student"
    for teacher in {*NAMES, "student"} & set(latest_checkpoint(runs[name] / "checkpoints").branches):
        before, after = weights_at(runs[name], 2, teacher), weights_at(runs[name], 4, teacher)
        if teacher == student:
            assert any(not torch.equal(before[n], after[n]) for n in before)
        else:
            assert_same(after, before)


@pytest.mark.parametrize("name", METHODS)
def test_the_ledger_counts_the_planned_rollouts(runs, name):
    (ledger,) = events(runs[name], "ledger")
    total = rollouts_of(ledger)
    # 2 steps of 2 x 8, then 2 of 2 x 8: the lessons of mopd, or of static OPD with GRPO beside them
    assert total == ledger["planned_rollouts"] == (48 if name == "static_opd" else 64)


@pytest.mark.parametrize("name", METHODS)
def test_grpo_goes_on_in_the_students_capability_only_where_asked(runs, name):
    taught = [event for event in events(runs[name], "update") if event["phase"] == "consolidation"]
    assert all(("native/reward" in event) == (name == "static_opd with GRPO") for event in taught)
    teachers = {"image"} if name.startswith("static") else NAMES
    assert all({f"from_{teacher}/delta_abs" for teacher in teachers} <= set(event) for event in taught)


def test_the_student_begins_as_the_base_the_mean_or_an_expert(runs):
    """The first lesson reveals it: where student and teacher are one model, every delta is 0."""
    first = {
        name: next(e for e in events(folder, "update") if e["phase"] == "consolidation")
        for name, folder in runs.items()
        if name.startswith("mopd")
    }
    assert first["mopd from an expert"]["from_image/delta_abs"] < 1e-6
    assert first["mopd from an expert"]["from_text/delta_abs"] > 1e-4
    for name in ("mopd", "mopd from the mean"):
        assert all(first[name][f"from_{teacher}/delta_abs"] > 1e-5 for teacher in NAMES)
    deltas = [first[name]["from_text/delta_abs"] for name in ("mopd", "mopd from the mean")]
    assert deltas[0] != deltas[1]


def test_the_mean_of_the_experts_is_where_that_student_begins(runs):
    """Its first step of Adam moves no weight by more than the learning rate."""
    folder = runs["mopd from the mean"]
    experts = [weights_at(folder, 2, name) for name in NAMES]
    student = weights_at(folder, 3, "student")
    for name, tensor in student.items():
        mean = sum(expert[name].double() for expert in experts) / 2
        assert float((tensor - mean).abs().max()) < 1.1e-4


@pytest.mark.parametrize("name", METHODS)
def test_the_student_of_frozen_teachers_begins_without_moments_whatever_it_was_before(runs, name):
    student = "text" if name.startswith("static_opd") else "student"
    after = tensors_of(verify_checkpoint(runs[name] / "checkpoints" / "step-00000003"), student)
    made = {float(tensor) for key, tensor in after.items() if key.startswith("step/")}
    assert made == {1.0}


@pytest.mark.parametrize(
    ("name", "stop"),
    [("static_opd with GRPO", 1), ("mopd from the mean", 2), ("static_opd with GRPO", 3)],
    ids=["in RLVR", "between phases", "in OPD"],
)
def test_resuming_is_bit_identical(recipe, runs, tmp_path, name, stop, assert_same, stopped):
    folder = tmp_path / "run"
    shutil.copytree(runs[name], folder, ignore=shutil.ignore_patterns("merged", "branches", "report.html"))
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name != f"step-{stop:08d}":
            shutil.rmtree(checkpoint)
    stopped(folder)
    copd.train(recipe(*METHODS[name]), folder, resume=True)
    ours, theirs = (latest_checkpoint(f / "checkpoints") for f in (folder, runs[name]))
    for branch in theirs.branches:
        assert_same(tensors_of(ours, branch), tensors_of(theirs, branch))
    accuracy = [events(f, "result")[0]["table"] for f in (folder, runs[name])]
    assert accuracy[0] == accuracy[1]


@pytest.fixture(scope="module")
def experts(recipe, tmp_path_factory):
    changes = ["method=expert", "budget.rollouts=48"]
    return copd.train(recipe(*changes), tmp_path_factory.mktemp("experts") / "run").folder


def test_merge_only_is_the_mean_of_experts_that_were_reused(recipe, experts, tmp_path, assert_same):
    changes = ["method=merge_only", "budget.rollouts=48", f"experts.run={experts}"]
    folder = copd.train(recipe(*changes), tmp_path / "run").folder
    assert events(folder, "update") == [], "three steps were there already"
    merged = load_file(folder / "merged" / "model.safetensors")
    branches = [load_file(experts / "branches" / name / "model.safetensors") for name in NAMES]
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, sum(branch[name] for branch in branches) / 2, rtol=1e-6, atol=1e-7)
    (ledger,) = events(folder, "ledger")
    total = rollouts_of(ledger)
    assert total == ledger["planned_rollouts"] == 48, "what the experts cost is counted"


@pytest.fixture(scope="module")
def reusing(recipe):
    """Run a method that takes experts over: its name, their folder, the folder of the run."""
    return lambda name, experts, folder: copd.train(recipe(*METHODS[name], f"experts.run={experts}"), folder).folder


@pytest.fixture(scope="module")
def static_of(reusing, experts, tmp_path_factory):
    """A copy of the experts, and a run of static OPD that has taken them over."""
    root = tmp_path_factory.mktemp("reused")
    shutil.copytree(experts, root / "experts")
    return root / "experts", reusing("static_opd", root / "experts", root / "run")


@pytest.mark.parametrize("name", ["static_opd", "mopd from the mean"])
def test_reused_experts_give_the_run_that_trains_its_own(request, reusing, runs, experts, tmp_path, name, assert_same):
    if name == "static_opd":
        experts, folder = request.getfixturevalue("static_of")
    else:
        folder = reusing(name, experts, tmp_path / "run")
    assert [event["step"] for event in events(folder, "update")] == [2, 3]
    own, again = ([e for e in events(f, "teaching") if e["step"] == 1] for f in (runs[name], folder))
    assert [e["teacher_accuracy"] for e in own] == [e["teacher_accuracy"] for e in again] != []
    assert json.loads((folder / "manifest.json").read_text())["recipe"]["experts"]["run"] == str(experts)
    ours, theirs = (latest_checkpoint(f / "checkpoints") for f in (folder, runs[name]))
    for branch in theirs.branches:
        assert_same(tensors_of(ours, branch), tensors_of(theirs, branch))


@pytest.fixture(scope="module")
def frugal(recipe, tmp_path_factory):
    """Experts of the recipe's own length, six steps, that keep one checkpoint in passing."""
    changes = ["method=expert", "checkpoint={every_steps: 4, keep_last: 1}"]
    return copd.train(recipe(*changes), tmp_path_factory.mktemp("frugal") / "run").folder


@pytest.mark.parametrize(
    ("method", "taken_over"),
    [("mopd", 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("copd", 2), ("static_opd", 4)))],
)
def test_experts_are_taken_over_just_where_any_method_of_the_recipe_needs_them(
    recipe, frugal, tmp_path, method, taken_over
):
    changes = [f"method={method}", f"experts.run={frugal}", "checkpoint={every_steps: 4, keep_last: 1}"]
    folder = copd.train(recipe(*changes), tmp_path / "run").folder
    (taken,) = events(folder, "experts")
    assert taken["step"] + 1 == taken_over
    assert {event["phase"] for event in events(folder, "update")} == {"opd" if method == "copd" else "consolidation"}
    (ledger,) = events(folder, "ledger")
    total = rollouts_of(ledger)
    assert total == ledger["planned_rollouts"] == 96


def test_of_experts_no_other_checkpoints_are_kept_than_those_needed_and_the_last(frugal):
    kept = sorted(folder.name for folder in (frugal / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (2, 3, 4, 6)]


def test_copd_takes_over_no_more_steps_than_its_first_phase_has(recipe, experts, tmp_path):
    changes = ["schedule={cycles: 2, rl_steps: 1, opd_steps: 1}", "checkpoint.every_steps=2", f"experts.run={experts}"]
    folder = copd.train(recipe(*changes), tmp_path / "run").folder
    assert [e["taken_from"].rpartition("-")[2] for e in events(folder, "experts")] == ["00000001"]
    steps = {e["step"]: e["phase"] for e in events(folder, "update")}
    assert steps == {1: "opd", 2: "rlvr", 3: "opd"}


def test_experts_that_are_taken_over_have_cost_what_they_did_and_not_what_the_others_of_their_run_did(recipe, tmp_path):
    branches = easy("text", "image", "video")
    all_three = ["method=expert", "budget.rollouts=48", branches]
    experts = copd.train(recipe(*all_three), tmp_path / "experts").folder
    two = [*METHODS["static_opd"], branches, f"experts.run={experts}"]
    (taken,) = events(copd.train(recipe(*two), tmp_path / "run").folder, "experts")
    (cost,) = events(experts, "ledger")
    assert taken["spent"] == {name: cost["spent"][name] for name in NAMES}
    slowest = max(sum(own["rlvr"][name] for name in ACTIVITIES) for own in taken["spent"].values())
    assert taken["critical_path"] == {"rlvr": slowest}
    assert slowest <= cost["critical_path"]["rlvr"]


def test_the_files_of_verifiers_decide_how_experts_develop():
    told = load_recipe("demo-paper").model_dump(mode="json")
    first, second = (trajectory(told, {}, {}, {"reward.py:grade": digest}) for digest in ("aa", "bb"))
    assert first != second


def test_a_run_of_taken_over_experts_goes_on_when_they_are_gone(recipe, static_of, tmp_path, stopped):
    experts, run = static_of
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("step-00000004"))
    stopped(folder)
    experts.rename(tmp_path / "gone")
    try:
        copd.train(recipe(*METHODS["static_opd"], f"experts.run={experts}"), folder, resume=True)
    finally:
        (tmp_path / "gone").rename(experts)
    assert len(events(folder, "result")) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1", r"developed otherwise: recipe\.seed was 0 and is now 1$"),
        ("optimizer.learning_rate=1e-3", r"otherwise: recipe\.optimizer\.learning_rate was 0\.0001 and is now 0\.001$"),
        ("lora={rank: 2, alpha: 4}", "developed otherwise"),
        ("mixed.batch=K_times", "developed otherwise"),
        ("grpo.normalize_std=false", "developed otherwise"),
        ("sampling.temperature=0.9", "developed otherwise"),
        ("reward.format_weight=0.1", "developed otherwise"),
        ("branches.text.task.conflict=0.5", "developed otherwise"),
        ("experts.run=nowhere", "no manifest of a run"),
        (
            "schedule.rl_steps=0",
            "no whole checkpoint of text, image after at most 0 .* found steps 1, 2, 3. A run of expert",
        ),
    ],
)
def test_experts_of_another_trajectory_are_refused(recipe, experts, tmp_path, change, said):
    with pytest.raises(RecipeError, match=said):
        copd.train(recipe("method=copd", f"experts.run={experts}", change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["method=static_opd", "static_opd.teacher=sound"], "static_opd.teacher: no branch 'sound'"),
        (["method=static_opd", "static_opd={teacher: text, student: text}"], "'text' cannot teach itself"),
        (["method=mopd", "mopd.student=sound"], "mopd.student: no branch 'sound'"),
        (["method=mopd", "schedule.opd_steps=0"], "mopd needs rl_steps and opd_steps above 0"),
        (["method=merge_only", "branches={a: {task: {capability: text}}}"], "merge_only needs at least two"),
        (["budget.rollouts=0"], "budget.rollouts"),
    ],
)
def test_contradictory_baselines_are_refused_by_name(changes, said):
    with pytest.raises(RecipeError, match=said):
        make_plan(load_recipe("demo-paper", changes))
