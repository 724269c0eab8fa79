"""The commands as a user meets them: exit status, one line for a mistake, help."""

import subprocess
import sys

import pytest

from copd.config import described, load_recipe

BOTH = ["--branch", "builtin:digits", "--branch", "builtin:digits"]


def copd(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """The command as a process of its own."""
    return subprocess.run([sys.executable, "-m", "copd.cli", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "demo", "schedule.cycels=2"], "schedule.cycels: unknown key; did you mean 'cycles'?"),
        (["train", "nothing.yaml"], "recipe nothing.yaml: not a readable file"),
        (["train", "demo", "model.path=nowhere"], "model.path: no folder 'nowhere'"),
        (["train", "demo", "model.path=builtin:nothing"], "there is builtin:digits"),
        (["eval", "builtin:digits", "nowhere"], "MODEL: no folder 'nowhere'"),
        (
            ["merge", *BOTH, "--out", "o", "--method", "ties", "--weight", "1"],
            "merge.weights: 1 weights for 2 branches; give one for each",
        ),
        (["merge", *BOTH, "--out", "o", "--scale", "1"], "merge.scale: method 'mean' takes no scale"),
        (["merge", *BOTH, "--out", "o", "--method", "soup"], "merge.method: Input should be 'mean', 'weighted'"),
        (
            ["merge", *BOTH, *BOTH, "--out", "o", "--method", "slerp"],
            "merge.method: 'slerp' merges two branches, found 4",
        ),
        (["merge", *BOTH, "--out", "o", "--scan"], "--scan: method 'mean' has no weights and no scale"),
        (["merge", *BOTH, "--out", "o", "--method", "dare"], "--base: missing; method 'dare' needs the base"),
        (["behaviour", "nowhere", "builtin:digits"], "STUDENT: no folder 'nowhere'"),
        (["behaviour", "builtin:digits", "nowhere"], "TEACHER: no folder 'nowhere'"),
        (["report", "nowhere"], "nowhere: not a run folder (manifest.json is missing)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(command, arguments, said, tmp_path):
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_the_process_exits_as_the_command_does(tmp_path):
    done = copd("train", "nothing.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: recipe nothing.yaml: ")


def test_recipe_show_lists_every_field_with_its_meaning(command):
    shown = command("recipe", "show", "demo", "seed=7").stdout
    for path, _, meaning in described(load_recipe("demo")):
        assert path in shown
        assert meaning.split()[0] in shown
    assert "7" in shown


def test_help_names_all_commands(command):
    said = command("--help").stdout
    for name in ("train", "eval", "behaviour", "report", "merge", "warmup", "recipe", "data"):
        assert name in said


def test_eval_compares_models_side_by_side_from_any_folder(tmp_path):
    done = copd(
        "eval", "builtin:digits", "--set", "evaluation.problems=4", "--set", "evaluation.pass_at=[1]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "builtin:digits" in done.stdout
    assert "average" in done.stdout


def test_merge_scans_from_any_folder_and_says_what_decided(command, tmp_path):
    few = ["--set", "evaluation.validation_problems=2", "--grid", "1"]
    done = command("merge", *BOTH, "--method", "weighted", "--scan", *few, "--out", "both")
    assert done.returncode == 0, done.stderr
    for said in ("greedy accuracy on validation problems", "weights 1 0", "weights 0 1", "weighted, weights"):
        assert said in done.stdout
    assert "chosen on validation problems" in done.stdout
    assert (tmp_path / "both" / "model.safetensors").is_file()


@pytest.mark.slow
def test_behaviour_shows_measures_and_disputed_tokens_of_every_field(command):
    assert command("warmup", "base", "--steps", "1").returncode == 0
    done = command("behaviour", "builtin:digits", "base", "--problems", "2")
    assert done.returncode == 0, done.stderr
    for expected in ("overlap@5", "symmetric", *(f"{field}: most disputed" for field in ("text", "image", "video"))):
        assert expected in done.stdout
