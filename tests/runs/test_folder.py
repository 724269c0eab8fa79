"""What a run folder may hold when a run begins, or goes on."""

import json

import pytest

from copd.errors import CheckpointError, RecipeError, WriteError
from copd.recipe.reading import load_recipe, make_recipe
from copd.runs.folder import check_folder, claim, occupied, record_forced
from copd.runs.runlog import RUN_MANIFEST


def manifest_of(*changes: str, **others) -> dict:
    recipe = load_recipe("demo", changes)
    same = {
        "branch_order": list(recipe.branches),
        "base_sha256": {},
        "data_sha256": {"text": "a"},
        "code_sha256": {},
        "versions": {"torch": "2"},
    }
    return {"recipe": recipe.model_dump(mode="json"), **same, **others}


def older(manifest: dict, *paths: str) -> dict:
    """The manifest of a copd that did not know these fields of a recipe yet."""
    copy = json.loads(json.dumps(manifest))
    for path in paths:
        *sections, field = path.split(".")
        section = copy["recipe"]
        for name in sections:
            section = section[name]
        del section[field]
    return copy


def check(folder, manifest: dict, resume: bool = True) -> None:
    check_folder(folder, manifest, resume, reread=lambda saved: make_recipe(saved).model_dump(mode="json"))


def test_a_run_of_the_same_recipe_goes_on(tmp_path):
    claim(tmp_path / "run", manifest_of("seed=3"))
    check(tmp_path / "run", manifest_of("seed=3"))


def test_a_run_on_the_rows_of_a_program_goes_on_in_another_folder_if_they_are_the_same(tmp_path):
    def manifest(folder: str, sha256: str) -> dict:
        file = f"{folder}/given/text-train.jsonl"
        recipe = manifest_of(f"branches.text.task={{kind: rows, train: [{file}], verifier: integer}}")["recipe"]
        return manifest_of(recipe=recipe, data_sha256={"text": {"train": {file: sha256}}})

    claim(tmp_path, manifest("runs/a", "1"))
    check(tmp_path, manifest("/moved to/b", "1"))
    with pytest.raises(CheckpointError, match=r"data_sha256\.text\.train\.given/text-train\.jsonl was '1' and is now"):
        check(tmp_path, manifest("/moved to/b", "2"))


def test_a_recipe_from_before_a_field_goes_on_where_the_field_has_its_default(tmp_path):
    fields = ("reward", "lora", "grpo.iterations", "branches.text.device", "branches.image.task.noise")
    claim(tmp_path / "run", older(manifest_of(), *fields))
    check(tmp_path / "run", manifest_of())


def test_a_run_goes_on_with_more_patience_but_not_elsewhere(tmp_path):
    claim(tmp_path / "run", manifest_of("backend=processes"))
    patience = "backend={kind: processes, restarts: 9, place_minutes: 99, slow_minutes: 1, give_up_minutes: 999}"
    check(tmp_path / "run", manifest_of(patience))
    check(
        tmp_path / "run", manifest_of("backend=processes", "model.export_dtype=bfloat16", "model.allow_plain_path=true")
    )
    with pytest.raises(CheckpointError, match=r"recipe\.backend\.kind was 'processes' and is now 'ray'"):
        check(tmp_path / "run", manifest_of("backend=ray"))


def test_a_run_goes_on_with_other_trackers(tmp_path):
    mine = {**manifest_of("trackers=[wandb, 'mine.py:Lines']"), "code_sha256": {"mine.py:Lines": "a"}}
    claim(tmp_path / "run", mine)
    check(tmp_path / "run", {**manifest_of("trackers=[tensorboard]"), "code_sha256": {}})
    with pytest.raises(CheckpointError, match=r"code_sha256\.mine\.py:first was None and is now 'b'"):
        check(tmp_path / "run", {**mine, "code_sha256": {**mine["code_sha256"], "mine.py:first": "b"}})


def test_a_recipe_from_before_a_field_does_not_go_on_with_another_value(tmp_path):
    claim(tmp_path / "run", older(manifest_of(), "grpo.iterations"))
    with pytest.raises(CheckpointError, match=r"cannot resume: recipe\.grpo\.iterations was 1 and is now 2"):
        check(tmp_path / "run", manifest_of("grpo.iterations=2"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_sha256": {"text": "b"}}, r"data_sha256\.text was 'a' and is now 'b'"),
        ({"branch_order": ["image", "text", "video"]}, r"branch_order was \['text', 'image', 'video'\] and is now"),
        ({"base_sha256": {"model.safetensors": "c"}}, r"base_sha256\.model\.safetensors was None and is now 'c'"),
    ],
)
def test_other_data_another_base_or_another_order_of_branches_is_refused_by_name(tmp_path, change, said):
    claim(tmp_path / "run", manifest_of())
    with pytest.raises(CheckpointError, match=said):
        check(tmp_path / "run", manifest_of(**change))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({**manifest_of()["recipe"], "annealing": 3}, "this copd cannot read the run's recipe: annealing: unknown key"),
        ({"method": "copd", "sede": 1}, "branches: missing; it has no default; sede: unknown key"),
        (None, "cannot read the run's recipe: "),
        ("demo", "cannot read the run's recipe: "),
    ],
)
def test_a_saved_recipe_that_cannot_be_read_any_more_is_told_in_one_line(tmp_path, recipe, said):
    claim(tmp_path / "run", manifest_of(recipe=recipe))
    with pytest.raises(CheckpointError) as refusal:
        check(tmp_path / "run", manifest_of())
    assert said in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / "run" / RUN_MANIFEST))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": {}}', "[" * 100_000], ids=["half", "list", "little", "deep"])
def test_a_damaged_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / RUN_MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{RUN_MANIFEST}: damaged, cannot resume"):
        check(tmp_path, manifest_of())


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [f".{RUN_MANIFEST}.writing", ".lock", "wandb-id"])
def test_what_a_start_leaves_that_was_killed_is_in_nobodys_way(tmp_path, name, resume):
    (tmp_path / name).write_text("{")
    check(tmp_path, manifest_of(), resume)
    claim(tmp_path, manifest_of())
    check(tmp_path, manifest_of())
    assert RUN_MANIFEST in {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", [".writing", "my.writing", "notes.lock", ".lock.txt"])
def test_a_folder_of_other_files_is_refused_even_to_resume(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(RecipeError, match=f"is not empty; .*it holds no {RUN_MANIFEST}"):
        check(tmp_path, manifest_of())


def test_a_folder_in_use_is_refused_unless_it_is_resumed(tmp_path):
    claim(tmp_path / "run", manifest_of())
    with pytest.raises(RecipeError, match=r"is not empty; give another folder \(--resume goes on"):
        check(tmp_path / "run", manifest_of(), resume=False)


def test_a_file_in_the_place_of_a_run_folder_is_called_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"file: is a file; accepted: a new or an empty folder$"):
        check(tmp_path / "file", manifest_of())


def test_a_manifest_that_cannot_be_written_is_named(tmp_path):
    in_the_way = tmp_path / f".{RUN_MANIFEST}.writing"
    in_the_way.mkdir()
    with pytest.raises(WriteError, match=f"^{tmp_path / RUN_MANIFEST}: cannot be written: "):
        claim(tmp_path, manifest_of())
    assert not (tmp_path / RUN_MANIFEST).exists()
    in_the_way.rmdir()
    claim(tmp_path, manifest_of())
    in_the_way.mkdir()
    with pytest.raises(WriteError, match=f"^{tmp_path / RUN_MANIFEST}: cannot be written: "):
        record_forced(tmp_path, manifest_of("seed=3"), 5, ["recipe.seed was 0 and is now 3"])
    check(tmp_path, manifest_of())


def test_a_file_in_the_place_of_a_folder_counts_as_occupied(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert [occupied(tmp_path / name) for name in ("file", "folder", "none")] == [True, False, False]
