"""What words name a model of a checkpoint, and the run that a model lies in."""

import json
from pathlib import Path

import pytest

from copd.errors import RunFolderError
from copd.runs.saved import Reference, checkpoint_of, recipe_of, reference_of, run_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        ("runs/demo@40", Reference(Path("runs/demo"), None, "40")),
        ("runs/demo@best", Reference(Path("runs/demo"), None, "best")),
        ("runs/a@b@last", Reference(Path("runs/a@b"), None, "last")),
        ("runs/demo/branches/text@40", Reference(Path("runs/demo"), "text", "40")),
        ("branches/text@40", Reference(Path("."), "text", "40")),
        ("runs/demo", None),
        ("runs/demo@main", None),
        (f"org/name@{COMMIT}", None),
        (f"org/name@{'1' * 40}", None),
        ("builtin:digits", None),
        ("@40", None),
    ],
)
def test_a_run_or_a_branch_and_a_step_name_a_model_of_a_checkpoint(model, reference):
    assert reference_of(model) == reference


def test_a_folder_that_is_there_is_meant_by_its_name(tmp_path):
    (tmp_path / "run@40").mkdir()
    assert reference_of(str(tmp_path / "run@40")) is None


@pytest.fixture
def run(tmp_path):
    for inside in ("branches/text", "merged", "exports/step-00000003/branches/text", "checkpoints/step-00000003"):
        (tmp_path / "run" / inside).mkdir(parents=True)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"recipe": {"seed": 7}}))
    (tmp_path / "run" / "checkpoints" / "step-00000003" / "manifest.json").write_text(json.dumps({"step": 3}))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "inside",
    ["", "/merged", "/branches/text", "/exports/step-00000003/branches/text", "/checkpoints/step-00000003", "@3"],
)
def test_a_model_lies_in_the_run_around_it(run, inside):
    assert run_of(f"{run}{inside}").resolve() == run.resolve()
    assert recipe_of(run) == {"seed": 7}


@pytest.mark.parametrize("text", ['{"recipe": 1}', '{"name": "an app"}'])
def test_a_folder_with_a_manifest_of_something_else_is_no_run(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert run_of(str(tmp_path / "merged")) is None
    assert run_of("builtin:digits") is None


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_manifest_is_told_not_passed_over(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert run_of(str(tmp_path / "merged")) == tmp_path
    with pytest.raises(RunFolderError, match="not a run folder"):
        recipe_of(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(RunFolderError, match=rf"^{tmp_path}: has no checkpoint after 7 steps; there are none$"):
        checkpoint_of(tmp_path, "7", None)
