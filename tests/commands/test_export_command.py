"""The models of a checkpoint: as the run itself writes them, from a run in any state, and named where models are."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from merges import mean
from records import events, weights_at
from safetensors.torch import load_file
from small_base import easy

import copd
from copd.commands.export import export, folders_of
from copd.errors import CheckpointError, ModelFolderError, RecipeError, RunFolderError, WriteError
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import step_folders
from copd.runs.saved import best_step

TINY = [
    "backend=local",
    easy("text", "image"),
    "schedule={cycles: 1, rl_steps: 2, opd_steps: 1}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 12}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
    "evaluation={problems: 1, validation_problems: 4, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
    "checkpoint={every_steps: 1, keep_last: 9}",
]
NAMES = ("text", "image")

pytestmark = pytest.mark.usefixtures("undrawn")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_bytes(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def tiny(small_base) -> list[str]:
    return [*TINY, f"model.path={small_base}"]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> Path:
    """Its second step spoils the models: the first validation is the best."""
    changes = ["evaluation.every_steps=1", "checkpoint={every_steps: 9, keep_last: 1, keep_best: true, keep_at: [2]}"]
    spoilt = ["optimizer.learning_rate=0.03", "optimizer.warmup_steps=1"]
    return copd.train(load_recipe("demo-paper", [*tiny, *changes, *spoilt]), tmp_path_factory.mktemp("export") / "run")


@pytest.fixture
def stopped_run(finished, tmp_path) -> Path:
    """What a run has while it trains, or after it was stopped."""
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(finished / name, tmp_path / "run" / name)
    shutil.copytree(finished / "checkpoints", tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def test_the_last_checkpoint_gives_the_models_of_the_end_bit_for_bit(finished, stopped_run):
    made = export(stopped_run)
    assert made.folders == [
        stopped_run / "exports" / "step-00000003" / at for at in ("branches/text", "branches/image", "merged")
    ]
    for folder, at in zip(made.folders, ("branches/text", "branches/image", "merged"), strict=True):
        assert same_bytes(folder, finished / at)
        assert json.loads((folder / "generation_config.json").read_text()) == json.loads(
            (finished / at / "generation_config.json").read_text()
        )
    assert made.left_out is None
    assert "# Merged model, after 3 of 3 steps, of a copd run" in (folder / "README.md").read_text()
    assert {path.name for path in (stopped_run / "exports" / "step-00000003").iterdir()} == {"branches", "merged"}


def test_an_earlier_checkpoint_gives_its_own_weights_and_their_merge(stopped_run, tmp_path, assert_same):
    told = []
    *branches, merged = map(weights_of, export(stopped_run, "2", tmp_path / "two", told.append).folders)
    assert told[1:] == ["step 2: branch text", "step 2: branch image", "step 2: merging 2 branches"]
    for name, weights in zip(NAMES, branches, strict=True):
        assert_same(weights, {n: t for n, t in weights_at(stopped_run, 2, name).items() if n in weights})
    assert_same(merged, mean(branches))


def test_the_merge_is_measured_at_every_validation_and_the_best_checkpoint_is_kept(finished):
    measured = events(finished, "accuracy")
    assert [event["step"] for event in measured] == [-1, 0, 1, 2]
    assert all({cell["model"] for cell in event["table"]} == {*NAMES, "merged"} for event in measured)
    best = best_step(finished, "merged")
    assert best < 3
    assert sorted(step_folders(finished / "checkpoints")) == sorted({best, 2, 3})
    assert export(finished, "best", finished / "exports" / "best").folders[-1].is_dir()


def test_a_checkpoint_stands_where_a_model_does_for_as_long_as_it_is_needed(finished):
    named = {f"{finished}@3": "MODEL", f"{finished}/branches/image@last": "MODEL", "builtin:digits": "MODEL"}
    with folders_of(named) as folders:
        product, branch, builtin = map(folders.get, named)
        assert same_bytes(Path(product), finished / "merged")
        assert same_bytes(Path(branch), finished / "branches" / "image")
        assert builtin == "builtin:digits"
    assert not Path(product).exists()


def test_eval_and_merge_take_checkpoints(command, finished, tmp_path):
    few = ["evaluation.problems=2", "evaluation.pass_at=[]"]
    done = command("eval", f"{finished}@3", str(finished / "merged"), *few)
    assert done.returncode == 0, done.stderr
    assert "+0.0" in done.stdout
    both = [f"{finished}/branches/{name}@3" for name in NAMES]
    assert command("merge", *both, "--out", "both").returncode == 0
    assert same_bytes(tmp_path / "both", finished / "merged")


def test_the_folder_of_a_run_of_one_model_is_answered_with_the_folder_of_that_model(finished, tmp_path):
    (tmp_path / "branches" / "text").mkdir(parents=True)
    shutil.copy(finished / "manifest.json", tmp_path)
    said = f"MODEL: {tmp_path} is a run, not its model; give {tmp_path}/branches/text, and of a checkpoint"
    with pytest.raises(ModelFolderError, match=said), folders_of({str(tmp_path): "MODEL"}):
        pass


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("RUN@first", r"MODEL: RUN has no checkpoint 'first'; accepted behind @: a number of steps, last or best"),
        ("RUN@1234", r"RUN: has no checkpoint after 1234 steps; there are checkpoints after .*3 steps"),
        ("RUN/branches/video@3", r"RUN@3: has no branch 'video'; give RUN/branches/NAME@3, where NAME is text, image"),
        ("RUN/branches/merged@3", "RUN@3: has no branch 'merged'; give RUN/branches/NAME@3"),
        ("nowhere@3", r"nowhere: not a run folder \(manifest.json is missing or damaged\)"),
        ("RUN", r"MODEL: RUN is a run of several models; give RUN/merged or RUN/branches/NAME, and of a checkpoint"),
    ],
)
def test_what_is_no_model_is_told_with_what_is_accepted(finished, model, said):
    with (
        pytest.raises((RunFolderError, ModelFolderError), match=said.replace("RUN", str(finished))),
        folders_of({model.replace("RUN", str(finished)): "MODEL"}),
    ):
        pass


def test_a_folder_that_holds_something_is_left_alone(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty; give another folder"):
        export(finished, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_told_as_it_was_given(finished, tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "file").touch()
    monkeypatch.setattr("copd.system.files.TemporaryDirectory", refuse)
    for out, why in ((tmp_path / "file" / "e", os.strerror(errno.EEXIST)), (tmp_path / "e", os.strerror(errno.EROFS))):
        with pytest.raises(WriteError) as refused:
            export(finished, out=out)
        assert str(refused.value) == f"--out {out}: cannot be written: {why}"


@pytest.mark.parametrize("step", ["", "-1", "first", "1.5"])
def test_a_step_is_a_number_or_one_of_two_words(finished, step):
    with pytest.raises(RecipeError, match=r"--step: found .*; accepted: a number of steps, last or best"):
        export(finished, step)


def test_another_base_is_refused_since_the_models_are_made_of_it(stopped_run, small_base):
    manifest = json.loads((stopped_run / "manifest.json").read_text())
    manifest["base_sha256"]["config.json"] = "0" * 64
    (stopped_run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"the base {small_base} is not the one that the run began with"):
        export(stopped_run)
    assert not (stopped_run / "exports").exists()


def test_a_run_that_keeps_no_best_checkpoint_says_what_would_keep_one(stopped_run):
    manifest = json.loads((stopped_run / "manifest.json").read_text())
    manifest["recipe"]["checkpoint"]["keep_best"] = False
    (stopped_run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=r"keeps no best checkpoint; train with checkpoint.keep_best=true"):
        export(stopped_run, "best")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [["lora={rank: 2, alpha: 4, targets: [q_proj]}"], ["model.freeze=[visual]"]])
def test_adapters_and_frozen_modules_come_with_their_base(tiny, tmp_path, changes):
    run = copd.train(
        load_recipe("demo-paper", [*tiny, *changes, "merge={method: ties, density: 0.5, scale: 1.0}"]), tmp_path / "run"
    )
    for folder, at in zip(export(run).folders, ("branches/text", "branches/image", "merged"), strict=True):
        assert same_bytes(folder, run / at)
        assert (folder / "adapter").is_dir() == (run / at / "adapter").is_dir()


@pytest.mark.slow
def test_a_student_is_the_product_from_its_first_lesson_on(tiny, tmp_path):
    run = copd.train(load_recipe("demo-paper", [*tiny, "merge={method: distil, steps: 1}"]), tmp_path / "run")
    early = export(run, "3")
    assert [folder.name for folder in early.folders] == ["text", "image"]
    assert early.left_out == "merged is a student that the branches have not taught yet after 3 steps"
    with pytest.raises(RunFolderError, match="@3: merged is a student that the branches have not taught yet"):
        folders_of({f"{run}@3": "MODEL"}).__enter__()
    assert same_bytes(export(run, "4").folders[-1], run / "merged")


@pytest.mark.slow
def test_experts_have_no_product_and_are_named_one_by_one(tiny, tmp_path):
    run = copd.train(load_recipe("demo-paper", [*tiny, "method=expert"]), tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"method expert makes no single model; give .*/branches/NAME@last"):
        folders_of({f"{run}@last": "MODEL"}).__enter__()
    with folders_of({f"{run}/branches/text@last": "MODEL"}) as folders:
        (folder,) = folders.values()
        assert same_bytes(Path(folder), run / "branches" / "text")
