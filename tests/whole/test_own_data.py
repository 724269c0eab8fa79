"""The example of one's own data: made as its script says, sound, and trained to a merged model."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import copd
from copd.assemble.tasks import make_tasks
from copd.data.check import check_branch, check_file
from copd.recipe.reading import load_recipe
from copd.runs.runlog import read_lines
from copd.types import Split

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "own_data"
RECIPE = str(EXAMPLE / "recipe.yaml")
SMALL = [
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 2, max_new_tokens: 12}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
]


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_script_makes_these_rows_and_pictures_again(tmp_path):
    spec = importlib.util.spec_from_file_location("make_own_data", EXAMPLE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    made, there = (
        {path.relative_to(folder).as_posix() for suffix in ("jsonl", "png") for path in folder.rglob(f"*.{suffix}")}
        for folder in (tmp_path, EXAMPLE)
    )
    assert made == there
    for name in made:
        if name.endswith(".jsonl"):
            assert (tmp_path / name).read_text() == (EXAMPLE / name).read_text()
        else:
            with Image.open(tmp_path / name) as new, Image.open(EXAMPLE / name) as old:
                assert (np.asarray(new) == np.asarray(old)).all(), name


def test_no_row_is_bad_and_the_recipe_finds_enough_of_them():
    recipe, said = load_recipe(RECIPE), []
    reports = {branch: check_branch(recipe, branch, said.append) for branch in recipe.branches}
    assert said == []
    assert {branch: [report.rows for report in of_splits] for branch, of_splits in reports.items()} == {
        "text": [180],
        "image": [96, 32, 32],
        "video": [96, 32, 32],
    }
    assert [set(report.kinds) for of_splits in reports.values() for report in of_splits[:1]] == [
        {"text"},
        {"image"},
        {"video"},
    ]
    make_tasks(recipe)


def test_the_rows_that_the_page_shows_are_sound_and_of_the_four_formats(tmp_path):
    shown = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "own-data.md").read_text(), re.DOTALL)
    formats = []
    for i, row in enumerate(map(json.loads, shown)):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(row))
        (report,) = check_file(str(tmp_path / f"{i}.jsonl"), print, root=str(EXAMPLE))
        assert (report.rows, report.bad) == (1, 0)
        formats += report.formats.values()
    assert formats == ["native", "trl", "easyr1", "verl"]


def test_no_picture_is_in_two_splits_and_a_constant_answer_about_photographs_earns_half():
    shown = {split: set() for split in Split}
    for split in Split:
        rows = [
            json.loads(line)
            for kind in ("image", "video")
            for line in (EXAMPLE / f"{kind}_{split.value}.jsonl").read_text().splitlines()
        ]
        for row in rows:
            names = sum(row.get("videos", []), row.get("images", []))
            shown[split] |= {(EXAMPLE / name).read_bytes() for name in names}
        answers = [str(row["answer"]) for row in rows if "1 or 2" in row.get("prompt", row.get("problem"))]
        assert answers.count("1") == answers.count("2") == len(answers) / 2
    train, validation, test = shown.values()
    assert not train & validation | train & test | validation & test


def test_the_example_is_trained_to_a_merged_model(tmp_path):
    run = copd.train(load_recipe(RECIPE, SMALL), tmp_path / "run").folder
    updates = [line for line in read_lines(run / "metrics.jsonl") if line["event"] == "update"]
    assert {line["branch"] for line in updates} == {"text", "image", "video"}
    assert (run / "merged" / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
