"""A recipe's tasks: rows that stand in two places are told with counts."""

import json

import pytest

from copd.assemble.tasks import leak_warnings, make_tasks, toy_warnings
from copd.recipe.reading import builtin_recipes, load_recipe


def tasks_of(folder, **branches):
    """Tasks on rows by branch: the numbers whose sums its train, validation and test rows ask for."""
    sections = []
    for name, splits in branches.items():
        files = {}
        for split, numbers in zip(("train", "validation", "test"), splits, strict=True):
            path = folder / f"{name}-{split}.jsonl"
            asked = "{}  + 1 is" if split == "train" else " {} + 1 IS "
            rows = [{"prompt": asked.format(n), "answer": n + 1, "verifier": "integer"} for n in numbers]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files[split] = str(path)
        sections.append(f"{name}: {{task: {{kind: rows, {', '.join(f'{k}: {v}' for k, v in files.items())}}}}}")
    asked = "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1}"
    return make_tasks(load_recipe("demo-paper", [f"branches={{{', '.join(sections)}}}", asked]))


def test_rows_of_different_splits_and_branches_that_share_nothing_give_no_warning(tmp_path):
    tasks = tasks_of(tmp_path, a=(range(9), range(10, 14), range(20, 24)), b=(range(30, 39), [40], [50]))
    assert leak_warnings(tasks) == []


def test_rows_in_two_splits_or_two_branches_are_counted_whatever_their_case_and_white_space(tmp_path):
    tasks = tasks_of(tmp_path, a=(range(9), [8, 9, 10], [7, 8, 9, 20]), b=([7, 20, 30], [40], [50]))
    said = "rows have the text, or the images and videos, of a"
    assert leak_warnings(tasks) == [
        f"branches.a.task: 1 of 3 validation {said} train row",
        f"branches.a.task: 2 of 4 test {said} train row",
        f"branches.a.task: 2 of 4 test {said} validation row",
        f"branches.a.task: 3 of 16 {said} row of branches.b.task",
    ]


ROWS = "branches.text.task={kind: rows, train: a.jsonl}"
MADE_FOR = "the default for builtin:digits;"
TOKENS = (
    f"sampling.max_new_tokens: is 36, {MADE_FOR} longer responses of models/4b are truncated and earn 0; set what "
    "answers need, for instance 4096"
)
RATE = f"optimizer.learning_rate: is 5e-05, {MADE_FOR} on all weights of models/4b the paper takes 1e-6"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.path=models/4b", "optimizer.learning_rate=5e-5"], [TOKENS, RATE]),
        (["model.path=models/4b", "optimizer.learning_rate=1e-6"], [TOKENS]),
        (["model.path=models/4b", "optimizer.learning_rate=5e-5", "lora={rank: 4}"], [TOKENS]),
        (["model.path=models/4b", "optimizer.learning_rate=5e-5", "sampling.max_new_tokens=4096"], [RATE]),
        (["optimizer.learning_rate=5e-5"], []),
    ],
)
def test_defaults_of_the_tiny_model_are_warned_of_where_another_answers_rows(changes, said):
    assert toy_warnings(load_recipe("demo-paper", [ROWS, *changes])) == said


def test_a_base_that_was_warmed_up_on_digits_may_have_their_defaults():
    assert toy_warnings(load_recipe("demo-paper", ["model.path=runs/base"])) == []


@pytest.mark.parametrize("name", builtin_recipes())
def test_no_recipe_that_ships_has_defaults_of_another_model(name):
    assert toy_warnings(load_recipe(name)) == []
