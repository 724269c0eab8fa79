"""Models are asked the problems of the run in which they lie, unless a recipe is named."""

import json

import pytest

from copd.commands.compared import compared_recipe
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.runs.folder import RESUMED


@pytest.fixture
def run(tmp_path):
    """Make a folder that holds the manifest of a run of the demo with changes."""

    def make(name: str, *changes: str):
        (tmp_path / name / "branches" / "text").mkdir(parents=True)
        manifest = dict.fromkeys(RESUMED) | {"recipe": load_recipe("demo", changes).model_dump(mode="json")}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / name

    return make


def recipe_for(*models, given=None, changes=()):
    said = []
    return compared_recipe(given, list(map(str, models)), changes, said.append), said


def test_the_recipe_is_that_of_the_run_in_which_a_model_lies_and_that_is_told(run):
    folder = run("own", "branches.text.task.max_number=7", "evaluation.problems=9")
    for model in (folder / "merged", folder / "branches" / "text"):
        recipe, said = recipe_for("builtin:digits", model)
        assert (recipe.branches["text"].task.max_number, recipe.evaluation.problems) == (7, 9)
        assert said == [f"problems are those of the run {folder}; --recipe names others"]
    assert recipe_for(folder / "merged", changes=["evaluation.problems=3"])[0].evaluation.problems == 3


def test_a_recipe_that_is_named_counts_alone(run):
    recipe, said = recipe_for(run("own", "branches.text.task.max_number=7") / "merged", given="demo")
    assert (recipe, said) == (load_recipe("demo"), [])


def test_models_that_ship_with_copd_are_asked_the_demo_s_problems():
    assert recipe_for("builtin:digits") == (load_recipe("demo"), [])


def test_runs_that_differ_in_other_things_are_compared_and_runs_that_ask_other_problems_are_not(run):
    one, same = run("one"), run("same", "method=mixed", "seed=3", "evaluation.problems=9", "branches.text.device=cpu")
    assert recipe_for(one / "merged", same / "branches" / "text")[0] == load_recipe("demo")
    other = run("other", "branches.text.task.max_number=7")
    with pytest.raises(RecipeError, match=rf"^--recipe: missing, and the runs {one} and {other} ask other problems;"):
        recipe_for(one / "merged", other / "merged")


def test_a_model_of_no_run_is_not_silently_asked_digits(command):
    told = "problems are the demo's digits, since no model lies in a run; --recipe names others"
    assert recipe_for("builtin:digits", "me/model@abc") == (load_recipe("demo"), [told])
    done = command("eval", "m")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, told)


def test_a_checkpoint_is_asked_the_problems_of_its_run(run):
    folder, told = run("own"), []
    of_folder = compared_recipe(None, [str(folder / "merged")], [], told.append)
    assert compared_recipe(None, [f"{folder}@3"], [], told.append) == of_folder
    assert compared_recipe(None, [f"{folder}/branches/text@last"], [], told.append) == of_folder
    assert len(set(told)) == 1


def test_a_run_whose_recipe_cannot_be_read_is_told_in_one_line(run):
    folder = run("own")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(
        RecipeError, match=rf"^--recipe: missing, and that of the run {folder} cannot be read: .*damaged"
    ):
        recipe_for(folder / "merged")
