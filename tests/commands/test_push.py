"""The cards of a run's models, and `copd push`: what strangers are told, and what does not leave the machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import copd
from copd.assemble.plan import make_plan
from copd.commands.cards import Cards
from copd.commands.push import notes, prepare
from copd.errors import RecipeError, RunFolderError, WriteError
from copd.model.folders import loader_of, model_folder, read_config
from copd.recipe.publish import published
from copd.recipe.reading import load_recipe, make_recipe
from copd.runs.saved import recipe_of

pytestmark = pytest.mark.usefixtures("undrawn")

HEAD = "---\nlicense: mit\ntags: [x]\n---\n# A base\n"
OWN = "def score(response, answer):\n    return 1.0\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run from a base with a card and a licence, on files below a folder whose name must not get out."""
    place = tmp_path_factory.mktemp("secret-place")
    shutil.copytree(model_folder("builtin:digits"), place / "my-base")
    (place / "my-base" / "README.md").write_text(HEAD)
    (place / "my-base" / "LICENSE").write_text("MIT")
    (place / "mine.py").write_text(OWN)
    rows = [{"prompt": f"sum: {n} 1", "answer": n + 1, "verifier": "integer"} for n in range(40)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "rows", "train": str(place / "rows.jsonl"), "data_root": str(place), "system_prompt": "Box it."}
    recipe = {
        "model": {"path": str(place / "my-base"), "device": "cpu"},
        "branches": {name: {"task": task} for name in ("ones", "twos")},
        "verifiers": {"mine": f"{place / 'mine.py'}:score"},
        "schedule": {"cycles": 1, "rl_steps": 1, "opd_steps": 0},
        "sampling": {"prompts_per_step": 1, "rollouts_per_prompt": 2, "max_new_tokens": 8},
        "evaluation": {"problems": 3, "validation_problems": 1, "behaviour_problems": 1, "pass_at": []},
    }
    return copd.train(recipe, place / "run", quiet=True)


def card_of(folder: Path) -> tuple[dict, str]:
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_has_the_licence_the_results_with_intervals_the_answer_form_and_the_citation(run):
    front, text = card_of(run.merged)
    assert front["license"] == "mit"
    assert front["pipeline_tag"] == "image-text-to-text"
    assert {"copd", "on-policy-distillation"} <= set(front["tags"])
    assert "base_model" not in front, "a folder is no model of the hub"
    cell = next(cell for cell in run.table if cell.model == "merged" and cell.capability == "ones")
    value, low, high = (f"{100 * share:.1f}" for share in vars(cell.greedy).values())
    assert f"| this model | {value} [{low}, {high}] |" in text
    assert "test problems (ones 3, twos 3)" in text
    for said in (
        "# Merged model",
        "`my-base`",
        "`\\boxed{}`",
        "arXiv:2604.27083",
        "suppress_tokens",
        "- ones: rows.jsonl",
    ):
        assert said in text
    assert card_of(run.branches["ones"])[1].startswith("# Branch ones")
    assert (run.merged / "LICENSE").read_text() == "MIT"


def test_a_card_asks_a_model_as_its_own_branch_was_asked(run):
    changes = [
        "branches.ones.task.chat_template_kwargs={enable_thinking: false}",
        "branches.ones.task.prompt_template='Q: {{ prompt }}'",
    ]
    recipe = load_recipe(recipe_of(run.folder), changes)
    base = Path(recipe.model.path)
    cards = Cards(recipe, make_plan(recipe), loader_of(read_config(base)), base)
    ones, twos, merged = (cards.card(name) for name in ("ones", "twos", "merged"))
    assert "'Box it.'" in ones
    assert "tokenize=False, enable_thinking=False)" in ones
    assert "```jinja\nQ: {{ prompt }}\n```" in ones
    assert "'Box it.'" in twos
    assert "enable_thinking" not in twos + merged
    assert "asked in different ways" in merged
    assert "asked in different ways" not in ones + twos


def test_the_code_of_a_card_asks_the_model(run):
    _, text = card_of(run.merged)
    code = text.split("```python\n")[1].split("```")[0]
    assert "'Box it.'" in code
    exec(code.replace('"FOLDER"', repr(str(run.merged))), {})


def test_an_argument_of_a_users_class_that_is_a_place_of_the_machine_is_published_by_its_name_alone(tmp_path):
    (tmp_path / "rows.csv").touch()
    given = {"file": str(tmp_path / "rows.csv"), "home": "~/me/x.csv", "shape": "a/b", "count": 3}
    task = {"kind": "python", "source": "mine.py:Mine", "arguments": given}
    recipe = load_recipe({"model": {"path": "builtin:digits"}, "branches": {"one": {"task": task}}, "method": "expert"})
    told = published(recipe)["branches"]["one"]["task"]["arguments"]
    assert told == {"file": "rows.csv", "home": "x.csv", "shape": "a/b", "count": 3}


def test_no_folder_of_the_machine_is_in_what_is_pushed_and_the_recipe_is_one(run):
    place = str(run.folder.parent)
    for path in prepare(run.folder, "me/model").files:
        assert place.encode() not in path.read_bytes(), path.name
    data = yaml.safe_load((run.merged / "recipe.yaml").read_text())
    assert make_recipe(data).verifiers == {"mine": "mine.py:score"}
    assert data["branches"]["ones"]["task"]["train"] == ["rows.jsonl"]
    assert data["model"]["path"] == "my-base"


def test_what_is_of_the_hub_stays_whole():
    from copd.recipe.publish import data_names, hub_data, model_name, published

    commit = "a" * 40
    task = f"{{kind: rows, train: [hub:me/maths/a.parquet, hub:me/maths/b.parquet], revision: {commit}}}"
    recipe = load_recipe("demo", [f"branches.text.task={task}", "model.path=me/base", f"model.revision={commit}"])
    assert published(recipe)["model"]["path"] == "me/base"
    assert hub_data(recipe) == ["me/maths"]
    assert data_names(recipe)["text"] == ["hub:me/maths/a.parquet", "hub:me/maths/b.parquet"]
    assert model_name("me/base", commit) == model_name(f"me/base@{commit}") == f"me/base@{commit}"
    assert model_name("/home/me/base") == "base"
    assert model_name("builtin:digits") == "builtin:digits"


def test_without_yes_nothing_is_uploaded_and_every_file_is_told(run, capsys, monkeypatch):
    from copd.cli import main
    from copd.commands import push

    monkeypatch.setattr(push, "upload", lambda *_: pytest.fail("uploaded"))
    monkeypatch.setattr(sys, "argv", ["copd", "push", str(run.folder), "--to", "me/model"])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr().out
    assert done.value.code == 0
    assert "model.safetensors" in said
    assert "nothing was uploaded: " in said
    assert "into a private repository" in said


def test_a_hub_that_cannot_be_reached_is_one_line(run):
    command = [sys.executable, "-m", "copd", "push", str(run.folder), "--to", "me/model", "--yes"]
    nowhere = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_" + "a" * 34}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: me/model: cannot be uploaded: ")


@pytest.mark.parametrize("to", ["model", "a/b/c", "a b/c", "../x"])
def test_what_is_no_name_of_a_repository_is_refused(run, to):
    with pytest.raises(RecipeError, match=r"^--to: "):
        prepare(run.folder, to)


def test_a_run_that_has_not_ended_or_has_no_such_model_is_refused(run, tmp_path):
    with pytest.raises(RunFolderError, match="holds no run that has come to its end"):
        prepare(tmp_path, "me/model")
    with pytest.raises(RunFolderError, match=r"nowhere: no such folder; accepted: the folder of a run"):
        prepare(tmp_path / "nowhere", "me/model")
    with pytest.raises(RunFolderError, match=rf"^{run.merged}: a model of a run; .* `copd push {run.folder}`$"):
        prepare(run.merged, "me/model")
    with pytest.raises(RunFolderError, match=rf"`copd push {run.folder} --branch ones`$"):
        prepare(run.branches["ones"], "me/model")
    with pytest.raises(RunFolderError, match=r"has no branch 'red'; accepted: --branch with one of ones, twos"):
        prepare(run.folder, "me/model", "red")


@pytest.mark.parametrize("leak", ["home", "key"])
def test_a_file_with_a_folder_of_the_machine_or_a_key_is_not_pushed(run, tmp_path, monkeypatch, leak):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    monkeypatch.setenv("HF_TOKEN", "hf_sentinel" + "A" * 26)
    text = str(Path.home()) if leak == "home" else os.environ["HF_TOKEN"]
    with (copy / "merged" / "README.md").open("a") as card:
        card.write(f"\nSee {text}/notes\n")
    with pytest.raises(WriteError, match=r"README.md:\d+: holds (the home folder|the value of the env)"):
        prepare(copy, "me/model")


def test_a_token_that_is_called_like_a_folder_is_no_leak(run, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    monkeypatch.setenv("HOME", "/root")
    (copy / "merged" / "vocab.json").write_text('{"/root": 5, "src/root/x": 6}')
    assert prepare(copy, "me/model").to == "me/model"


def test_a_card_without_a_licence_is_noted(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    card = copy / "merged" / "README.md"
    assert not any("licence" in note for note in notes(prepare(copy, "me/model")))
    card.write_text(card.read_text().replace("license: mit\n", ""))
    assert any("names no licence" in note for note in notes(prepare(copy, "me/model")))
