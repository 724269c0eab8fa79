"""The base model of the embedded world: what ships, and that it can be built again."""

import pytest

from copd.commands.evaluate import evaluate_models
from copd.commands.warmup import build_base
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe

RECIPE = load_recipe("demo", ["evaluation.problems=200", "evaluation.pass_at=[1]"])
CAPABILITIES = ("text", "image", "video")


def accuracies(path) -> dict[str, float]:
    return {cell.capability: cell.pass_at[1].value for cell in evaluate_models(RECIPE, [str(path)])[0]}


def test_the_base_that_ships_has_partial_skill_in_every_capability():
    base = accuracies("builtin:digits")
    for capability in CAPABILITIES:
        assert 0.22 < base[capability] < 0.6
    assert 0.3 < base["average"] < 0.6


def test_a_base_is_never_built_over_something_else(tmp_path):
    precious = tmp_path / "precious"
    precious.touch()
    for place in (tmp_path, precious):
        with pytest.raises(RecipeError, match=f"^OUT {place}: is not empty; give another folder"):
            build_base(place, conflict=1.0)


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.timeout(2700)
def test_a_rebuilt_base_reaches_the_skill_of_the_one_that_ships(tmp_path):
    build_base(tmp_path / "base", conflict=1.0)
    rebuilt, shipped = accuracies(tmp_path / "base"), accuracies("builtin:digits")
    for capability in CAPABILITIES:
        assert abs(rebuilt[capability] - shipped[capability]) < 0.15
