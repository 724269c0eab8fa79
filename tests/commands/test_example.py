"""The examples that ship with copd, copied to a folder where they run."""

from pathlib import Path

import pytest

from copd.commands.example import copy_example, examples
from copd.data.check import check_branch
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe

ROOT = Path(__file__).parents[2]


def test_the_copy_has_every_file_and_its_recipe_reads_the_copied_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = copy_example("own_data", Path("mine/first"))
    original = {path.name for path in (ROOT / "examples" / "own_data").rglob("*") if path.is_file()}
    assert {path.name for path in files} == {name for name in original if not name.endswith(".pyc")}
    recipe = load_recipe("mine/first/recipe.yaml")
    assert recipe.branches["image"].task.data_root == "mine/first"
    assert "checkout" not in Path("mine/first/recipe.yaml").read_text()
    reports = check_branch(recipe, "text", print)
    assert [(report.rows, report.bad) for report in reports] == [(180, 0)]


def test_a_folder_that_holds_anything_and_an_unknown_example_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"^DIR .*: is not empty"):
        copy_example("own_data", tmp_path)
    with pytest.raises(RecipeError, match=r"^NAME: no example 'other'; accepted: own_data"):
        copy_example("other", tmp_path / "new")


@pytest.mark.parametrize("name", ["ex #1", "ex, [2]", "a: b", " x"])
def test_a_folder_that_a_recipe_would_have_to_quote_is_refused(tmp_path, name):
    with pytest.raises(RecipeError, match=r"accepted: letters, digits, spaces, and / \. _ -$"):
        copy_example("own_data", Path(name))


def test_a_folder_with_a_space_holds_an_example_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy_example("own_data", Path("my data/ex-1"))
    assert load_recipe("my data/ex-1/recipe.yaml").branches["image"].task.data_root == "my data/ex-1"


def test_the_examples_of_the_checkout_are_found():
    assert examples() == {"own_data": ROOT / "examples" / "own_data"}
