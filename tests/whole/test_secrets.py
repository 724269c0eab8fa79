"""What the environment holds of secrets is in no file of a run and on no page about it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import copd
from copd.recipe.keys import without_keys
from copd.recipe.reading import load_recipe
from copd.report.page import write_comparison

SECRETS = {
    "HF_TOKEN": "hf_sentinel" + "A" * 26,
    "HUGGING_FACE_HUB_TOKEN": "hf_sentinel" + "B" * 26,
    "WANDB_API_KEY": "c0ffee" * 6 + "c0de",
    "AWS_SECRET_ACCESS_KEY": "sentinel/of+another/service",
}
TASKS = "text: {task: {capability: text, conflict: 1.0}}, image: {task: {capability: image, conflict: 1.0}}"
SMALL = [
    f"branches={{{TASKS}}}",
    "backend=local",
    "model.threads_per_branch=1",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 20}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
]


pytestmark = pytest.mark.usefixtures("undrawn")


def leaks(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that hold a secret, and whose it is; a name of a variable is none."""
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        yield from ((str(path.relative_to(folder)), name) for name, s in SECRETS.items() if s.encode() in content)


@pytest.fixture
def secrets(monkeypatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_no_file_of_a_run_and_no_page_holds_a_secret_of_the_environment(secrets, small_base, tmp_path):
    changes = [*SMALL, f"model.path={small_base}", "trackers=[tensorboard]"]
    run = copd.train(load_recipe("demo-paper", changes), tmp_path / "run").folder
    shutil.copytree(run, tmp_path / "twin")
    write_comparison([run, tmp_path / "twin"])
    there = {path.name for path in tmp_path.rglob("*")}
    records = {"manifest.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "tensorboard"}
    assert records | {"merged", "README.md", "report.html", "comparison.html"} <= there
    assert list(leaks(tmp_path)) == []


def test_a_whole_run_that_wandb_records_holds_no_secret_of_the_environment(secrets, small_base, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    changes = [*SMALL, f"model.path={small_base}", "trackers=[wandb]", "method=mixed"]
    changes.append("schedule={cycles: 1, rl_steps: 1, opd_steps: 0}")
    run = copd.train(load_recipe("demo-paper", changes), tmp_path / "run").folder
    assert list(run.rglob("*.wandb"))
    assert list(leaks(tmp_path)) == []


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("model.path=https://user:KEY@host/model", "model.path"),
        ("branches.text.task={kind: rows, train: [a.jsonl, b-KEY.jsonl]}", "branches.text.task.train.1"),
        ("verifiers={'KEY': a.py:b}", "verifiers"),
        ("hub_token=KEY", "hub_token"),
    ],
)
def test_a_recipe_that_repeats_one_is_refused_without_saying_it(secrets, command, tmp_path, name, change, field):
    done = command("train", "demo-paper", *SMALL[1:], change.replace("KEY", SECRETS[name]))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {field}: holds the value of the environment variable {name}, which a run ")
    assert done.stderr.count("\n") == 1
    assert SECRETS[name] not in done.stdout + done.stderr
    assert not any(tmp_path.iterdir())


def test_the_command_that_is_kept_for_the_report_holds_none(secrets):
    said = without_keys(f"copd train demo --out runs/{SECRETS['WANDB_API_KEY']}")
    assert said == "copd train demo --out runs/***"


def test_short_values_and_those_of_other_variables_may_stand_in_a_recipe(monkeypatch):
    for name, value in {"SESSION_KEY": "text", "MODEL": "builtin:digits"}.items():
        monkeypatch.setenv(name, value)
    assert list(load_recipe("demo-paper", SMALL).branches) == ["text", "image"]
