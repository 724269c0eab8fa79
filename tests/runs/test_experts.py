"""Which checkpoint of another run experts are taken from."""

import json

import pytest
import torch
from checkpoints import save_checkpoint

from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.runs.experts import expert_checkpoint, trajectory
from copd.runs.runlog import RUN_MANIFEST


@pytest.fixture
def run(tmp_path):
    """A run of two experts with checkpoints after 1, 2 and 3 steps of RLVR."""
    (tmp_path / RUN_MANIFEST).write_text(json.dumps({"trajectory": "abc", "recipe": {"opd": {"replay": 4}}}))
    for step in (1, 2, 3):
        states = {name: {"w": torch.full((3,), float(step))} for name in ("text", "image")}
        save_checkpoint(tmp_path / "checkpoints", step, states, {"only_rlvr": True}, 9)
    return tmp_path


def taken(run, at_most=9):
    told = []
    return expert_checkpoint(run, {"trajectory": "abc"}, ["text"], at_most, told.append).step, told


@pytest.mark.parametrize(("at_most", "step"), [(9, 3), (3, 3), (2, 2), (1, 1)])
def test_the_newest_of_at_most_so_many_steps_is_taken(run, at_most, step):
    assert taken(run, at_most) == (step, [])


def test_a_damaged_one_is_passed_over_and_told(run):
    path = run / "checkpoints" / "step-00000003" / "text.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    step, (warning,) = taken(run)
    assert step == 2
    assert warning == f"experts.run: passed over: {path}: damaged: size or sha256 differ from manifest.json"


@pytest.mark.parametrize("name", ["step-abc", "step-", "step-00000003 (copy)", "step--0000001"])
def test_folders_of_other_names_are_no_checkpoints(run, name):
    (run / "checkpoints" / name).mkdir()
    assert taken(run) == (3, [])


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000], ids=["half", "list", "empty", "deep"])
def test_a_damaged_manifest_of_a_run_is_refused_by_name(run, text):
    (run / RUN_MANIFEST).write_text(text)
    with pytest.raises(RecipeError, match=rf"experts\.run: .*{RUN_MANIFEST}: no manifest of a run"):
        taken(run)


def test_experts_that_keep_too_few_batches_are_refused(run):
    checkpoint = expert_checkpoint(run, {"trajectory": "abc"}, ["text"], 9, print, replay=4)
    assert checkpoint.step == 3
    with pytest.raises(RecipeError, match=r"its experts keep 4 batches, opd.replay is 5; train them with opd.signal="):
        expert_checkpoint(run, {"trajectory": "abc"}, ["text"], 9, print, replay=5)


def test_a_run_that_was_changed_by_force_is_refused_as_such(run):
    (run / RUN_MANIFEST).write_text(json.dumps({"trajectory": None, "recipe": {"opd": {}}}))
    with pytest.raises(RecipeError, match=rf"^experts\.run: {run}: was changed by --force, so its experts belong"):
        taken(run)


@pytest.mark.parametrize(("method", "trajectories"), [("copd", 1), ("expert", 1), ("mixed", 2)])
def test_the_order_of_branches_decides_how_a_mixed_model_develops_and_nothing_else(method, trajectories):
    recipe = load_recipe("demo-paper", [f"method={method}"]).model_dump(mode="json")
    turned = {**recipe, "branches": dict(reversed(recipe["branches"].items()))}
    assert len({trajectory(each, {}, {}, {}) for each in (recipe, turned)}) == trajectories


def test_experts_have_one_trajectory_whichever_method_takes_them_over():
    recipes = [
        load_recipe("demo-paper", [f"method={name}"]).model_dump(mode="json") for name in ("expert", "copd", "mopd")
    ]
    assert len({trajectory(recipe, {}, {}, {}) for recipe in recipes}) == 1


def test_rows_that_a_program_handed_over_to_each_run_are_one_trajectory_if_they_are_the_same():
    def of(folder: str, sha256: str) -> str:
        file = f"{folder}/given/text-train.jsonl"
        task = f"branches.text.task={{kind: rows, train: [{file}], verifier: integer}}"
        recipe = load_recipe("demo-paper", [task]).model_dump(mode="json")
        return trajectory(recipe, {}, {"text": {"train": {file: sha256}}}, {})

    assert of("runs/experts", "a") == of("runs/copd", "a") != of("runs/copd", "b")


def test_the_type_of_exports_and_the_leave_to_take_the_plain_path_are_no_part_of_a_trajectory():
    changes = ["model.export_dtype=bfloat16", "model.allow_plain_path=true"]
    recipes = [
        load_recipe("demo-paper", each).model_dump(mode="json") for each in ([], changes, ["model.dtype=bfloat16"])
    ]
    found = [trajectory(recipe, {}, {}, {}) for recipe in recipes]
    assert found[0] == found[1] != found[2]
    del recipes[0]["model"]["export_dtype"], recipes[0]["model"]["allow_plain_path"]
    assert trajectory(recipes[0], {}, {}, {}) == found[0], "nor of one from before they were fields"
