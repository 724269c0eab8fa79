"""The commands as a user meets them: exit status, one line for a mistake, help."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.main import get_command

from copd.cli.app import app
from copd.model.folders import CHECKSUMS, model_folder
from copd.recipe.reading import builtin_recipes, described, load_recipe, recipe_text
from copd.recipe.strict_yaml import parse_yaml
from copd.system.files import sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BOTH = ["builtin:digits", "builtin:digits"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "demo", "schedule.cycels=2"], "schedule.cycels: unknown key; did you mean 'cycles'?"),
        (["train"], "RECIPE: missing; accepted: a YAML file, or a recipe that ships with copd, such as demo"),
        (["train", "schedule.cycles=2"], "RECIPE: missing"),
        (["train", "demo", "--seed", "3"], "No such option: --seed; a field of the recipe is set as seed=VALUE (`copd"),
        (["train", "demo", "--max-new-tokens", "3"], "is set as sampling.max_new_tokens=VALUE (`copd train --help`"),
        (["train", "--resume", "seed=1"], "RECIPE: missing"),
        (["doctor"], "RECIPE: missing"),
        (["plan"], "RECIPE: missing"),
        (["advise"], "RECIPE: missing"),
        (["train", "nothing.yaml"], "recipe nothing.yaml: not a readable file"),
        (["train", "."], "recipe .: not a readable file (it is a folder), nor one of the recipes of copd"),
        (
            ["doctor", "sums.jsonl"],
            "recipe sums.jsonl: a file of rows; accepted: a YAML file, which `copd init --model",
        ),
        (["train", "demo", "model.path=nowhere"], "model.path: no folder 'nowhere'"),
        (["train", "demo", "model.path=builtin:nothing"], "there is builtin:digits"),
        (["eval", "builtin:digits", "nowhere"], "MODEL: no folder 'nowhere'"),
        (
            ["merge", *BOTH, "--out", "o", "--method", "ties", "--weight", "1"],
            "merge.weights: 1 weights for 2 branches; give one for each",
        ),
        (["merge", *BOTH, "--out", "o", "--scale", "1"], "merge.scale: method 'mean' takes no scale"),
        (["merge", *BOTH, "--out", "o", "--method", "soup"], "merge.method: accepted: 'mean', 'weighted'"),
        (
            ["merge", *BOTH, *BOTH, "--out", "o", "--method", "slerp"],
            "merge.method: 'slerp' merges two branches, found 4",
        ),
        (["merge", *BOTH, "--out", "o", "--scan"], "--scan: method 'mean' has no weights and no scale"),
        (["merge", *BOTH, "--out", "o", "--method", "dare"], "--base: missing; method 'dare' needs the base"),
        (["doctor", "demo", "schedule.cycels=2"], "schedule.cycels: unknown key; did you mean 'cycles'?"),
        (["merge", *BOTH, "--out", "o", "--recipe", "demo"], "--recipe: found without --scan"),
        (["merge", *BOTH, "seed=1", "--out", "o"], "seed=1: found without --scan"),
        (["eval", "seed=1"], "MODEL: missing"),
        (["eval", *BOTH, "schedule.cycels=2"], "schedule.cycels: unknown key; did you mean 'cycles'?"),
        (["behaviour", *BOTH, "schedule.cycels=2"], "schedule.cycels: unknown key; did you mean 'cycles'?"),
        (["eval", *BOTH, "--out", "no/o.json"], "--out no/o.json: there is no folder no; give a file in a folder"),
        (["merge", *BOTH, "--out", "o", "--grid", "6"], "--grid: found without --scan"),
        (["behaviour", "nowhere", "builtin:digits"], "STUDENT: no folder 'nowhere'"),
        (["behaviour", "builtin:digits", "nowhere"], "TEACHER: no folder 'nowhere'"),
        (
            ["report", "nowhere", "--out", "no/r.html"],
            "--out no/r.html: there is no folder no; give a file in a folder",
        ),
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
    words = [sys.executable, "-m", "copd", "train", "nothing.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: recipe nothing.yaml: ")


MISSING = "branches.a.task.train: gone.jsonl: no such file; accepted: a file, named .jsonl, .ndjson, .json or .parquet"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "demo", "--out", "taken"], "--out taken: is not empty; give another folder (--resume goes on with"),
        (["train", "recipe.yaml"], MISSING),
        (["plan", "recipe.yaml"], MISSING),
    ],
)
def test_a_command_that_cannot_begin_is_refused_before_pytorch_is_loaded(tmp_path, words, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("")
    task = "{kind: rows, train: [gone.jsonl, hub:me/rows], revision: main, test: empty.jsonl}"
    (tmp_path / "recipe.yaml").write_text(f"branches: {{a: {{task: {task}}}}}\nmethod: expert")
    (tmp_path / "empty.jsonl").touch()
    look = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    program = [sys.executable, "-c", f"{look}; from copd.cli import main; main()", *words]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith(f"error: {said}")
    if "recipe.yaml" in words:
        assert done.stderr.splitlines()[1].endswith("branches.a.task.test: empty.jsonl: empty, 0 bytes")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("copd train dem", ["demo", "demo-paper"]),
        ("copd train demo schedule.fir", ["schedule.first_rl_steps=null"]),
        ("copd doctor demo-paper seed=1 schedule.fir", ["schedule.first_rl_steps=null"]),
        ("copd plan qwen3-vl-4b branches.image.task.ver", ["branches.image.task.verifier=math"]),
        ("copd train gone.yaml schedule.fir", ["schedule.first_rl_steps=null"]),
        ("copd train demo optimizer.bet", ["optimizer.betas="]),
    ],
)
def test_a_shell_is_offered_recipes_and_the_fields_of_the_recipe_with_their_values(tmp_path, typed, offered):
    asked = {"_COPD_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    program = [sys.executable, "-c", "from copd.cli import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **asked})
    assert done.stdout.split() == offered


def test_recipe_list_names_each_recipe_that_ships_in_one_line(command):
    done = command("recipe", "list")
    names = [line.partition(": ")[0] for line in done.stdout.splitlines()]
    assert (done.returncode, names) == (0, builtin_recipes())
    assert "qwen3-vl-4b-lora: Qwen3-VL-4B-Instruct with adapters" in done.stdout


@pytest.mark.parametrize("name", builtin_recipes())
def test_the_yaml_that_recipe_show_writes_is_that_recipe(command, name):
    shown = command("recipe", "show", name, "--yaml").stdout
    assert shown == recipe_text(name)
    changed = command("recipe", "show", name, "seed=-7", "--yaml")
    assert changed.returncode == 2, "a change that is refused is refused here too"
    changed = command("recipe", "show", name, "seed=7", "--yaml").stdout
    assert load_recipe(parse_yaml(changed, "shown")) == load_recipe(name, ["seed=7"])


def test_recipe_show_lists_every_field_with_its_meaning(command):
    shown = command("recipe", "show", "demo", "seed=7").stdout
    for path, _, meaning in described(load_recipe("demo")):
        assert path in shown
        assert meaning.split()[0] in shown
    assert "7" in shown


def commands_of(group, *path):
    for name, each in group.commands.items():
        yield [*path, name]
        if hasattr(each, "commands"):
            yield from commands_of(each, *path, name)


def test_every_command_has_a_help_that_can_be_shown(command):
    found = list(commands_of(get_command(app)))
    assert ["data", "prepare"] in found
    for words in found:
        done = command(*words, "--help")
        assert (done.returncode, done.stderr) == (0, ""), words
    assert "hub:OWNER/NAME[/FILE]" in command("data", "prepare", "--help").stdout


def test_help_names_all_commands(command):
    said = command("--help").stdout
    for name in (
        "train",
        "watch",
        "doctor",
        "plan",
        "eval",
        "behaviour",
        "report",
        "merge",
        "export",
        "ask",
        "warmup",
        "recipe",
        "data",
    ):
        assert name in said


def test_eval_compares_models_side_by_side_from_any_folder(command, tmp_path):
    shutil.copytree(model_folder("builtin:digits"), tmp_path / "other")
    few = ["evaluation.problems=2", "evaluation.pass_at=[1]", "sampling.max_new_tokens=8"]
    done = command("eval", "builtin:digits", "other", *few, "--out", "found.json")
    assert done.returncode == 0, done.stderr
    for said in ("builtin:digits", "other", "average", "below: points more than builtin:digits", "+0.0"):
        assert said in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert {cell["model"] for cell in found["accuracies"]} == {"builtin:digits", "other"}
    assert [each["greedy"]["value"] for each in found["differences"]] == [0, 0, 0, 0]
    printed = command("eval", "builtin:digits", "other", *few, "--json")
    assert json.loads(printed.stdout) == found


def test_a_change_may_be_longer_than_the_name_of_a_file(command):
    done = command("eval", "nowhere", f"branches={{{'x' * 5000}: 1}}")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "branches" in done.stderr
    assert "too long" not in done.stderr


def test_the_package_itself_can_be_run():
    done = subprocess.run([sys.executable, "-m", "copd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"copd {version('copd')}\n"


def test_the_shell_completes_commands_builtin_recipes_and_files_of_recipes(tmp_path):
    def offered(words: str) -> list[str]:
        asked = {"_COPD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        script = Path(sys.executable).with_name("copd")
        done = subprocess.run([script], capture_output=True, text=True, cwd=tmp_path, env=os.environ | asked)
        return done.stdout.split()

    (tmp_path / "demo-mine.yaml").touch()
    assert offered("copd rec") == ["recipe"]
    assert offered("copd train demo-") == ["demo-paper", "demo-mine.yaml"]


def test_the_version_is_told(command):
    assert command("--version").stdout == f"copd {version('copd')}\n"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> None:
    """The hub's cache without a network, in which the base that ships is `org/digits`.

    As the hub's own client lays it out: files are blobs by their hash, a snapshot of a commit links to them.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = cache / "models--org--digits" / "snapshots" / COMMIT
    blobs = snapshot.parent.parent / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for file in model_folder("builtin:digits").iterdir():
        if file.name not in ("README.md", CHECKSUMS):
            shutil.copy(file, blobs / sha256(file))
            (snapshot / file.name).symlink_to(f"../../blobs/{sha256(file)}")


def test_a_model_of_the_hub_is_evaluated_at_its_commit(command, monkeypatch, hub):
    digits = f"org/digits@{COMMIT}"
    monkeypatch.setenv("COLUMNS", "200")
    done = command("eval", digits, "evaluation.problems=2", "evaluation.pass_at=[]")
    assert done.returncode == 0, done.stderr
    assert digits in done.stdout


def test_a_commit_that_is_not_in_the_cache_and_cannot_be_fetched_is_told(command, hub):
    done = command("merge", *BOTH, "--base", f"org/digits@{COMMIT[::-1]}", "--out", "o")
    assert done.returncode == 2
    assert f"error: --base: 'org/digits' at {COMMIT[::-1]} cannot be fetched: " in done.stderr
    assert "Traceback" not in done.stderr


def test_merge_scans_from_any_folder_and_says_what_decided(command, tmp_path):
    shutil.copytree(model_folder("builtin:digits"), tmp_path / "other")
    both = ["builtin:digits", "other"]
    few = ["evaluation.validation_problems=2", "sampling.max_new_tokens=8", "--grid", "1"]
    done = command("merge", *both, "--method", "weighted", "--scan", *few, "--out", "both")
    assert done.returncode == 0, done.stderr
    for said in ("greedy accuracy on validation problems", "weights 1 0", "weights 0 1", "weighted, weights"):
        assert said in done.stdout
    assert "chosen on validation problems" in done.stdout
    assert (tmp_path / "both" / "model.safetensors").is_file()


@pytest.mark.slow
def test_behaviour_shows_measures_and_disputed_tokens_of_every_capability(command):
    assert command("warmup", "base", "--steps", "1").returncode == 0
    done = command("behaviour", "builtin:digits", "base", "--problems", "2")
    assert done.returncode == 0, done.stderr
    for expected in (
        "overlap@5",
        "symmetric",
        *(f"{capability}: most disputed" for capability in ("text", "image", "video")),
    ):
        assert expected in done.stdout
    found = json.loads(command("behaviour", "builtin:digits", "base", "--problems", "2", "--json").stdout)
    assert [each["capability"] for each in found["capabilities"]] == ["text", "image", "video"]
    assert (found["student"], found["teacher"]) == ("builtin:digits", "base")
