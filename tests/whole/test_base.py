"""The base model of the embedded world: what ships, and that it can be built again."""

import pytest
import torch

from copd.commands import warmup
from copd.commands.evaluate import evaluate_models
from copd.commands.warmup import build_base
from copd.errors import RecipeError
from copd.model.warmup import demonstrations, warm_up
from copd.recipe.reading import load_recipe
from copd.types import Split

RECIPE = load_recipe("demo-paper", ["evaluation.problems=100", "evaluation.pass_at=[1]"])
CAPABILITIES = ("text", "image", "video")


def test_the_base_that_ships_has_partial_skill_in_every_capability():
    base = {cell.capability: cell.pass_at[1].value for cell in evaluate_models(RECIPE, ["builtin:digits"])[0]}
    for capability in CAPABILITIES:
        assert 0.22 < base[capability] < 0.6
    assert 0.3 < base["average"] < 0.6


def test_a_base_is_never_built_over_something_else(tmp_path):
    precious = tmp_path / "precious"
    precious.touch()
    for place in (tmp_path, precious):
        with pytest.raises(RecipeError, match=f"^OUT {place}: is not empty; give another folder"):
            build_base(place, conflict=1.0)


class Begun(Exception):
    """The warm-up has made the steps that are looked at."""


@pytest.mark.slow
def test_a_base_that_is_built_again_begins_as_the_one_that_ships(tmp_path, monkeypatch):
    """The nats per token of worked solutions after the first 40 of 1,000 steps. `make base` goes to the end.

    Processors and numbers of threads differ by 0.3 % here, and by 12 % after 60 steps.
    """
    built = []

    def stopped(policy, tasks, plan, report):
        def watch(step, steps):
            assert steps == 1000
            if step + 1 == 40:
                raise Begun

        with pytest.raises(Begun):
            warm_up(policy, tasks, plan, watch)
        built.append({task.name: nats_per_token(policy, task) for task in tasks})

    monkeypatch.setattr(warmup, "warm_up", stopped)
    build_base(tmp_path / "base", conflict=1.0)
    assert built == [pytest.approx({"text": 1.003, "image": 0.8081, "video": 0.7914}, rel=0.05)]


def nats_per_token(policy, task):
    solutions = demonstrations(policy, [task.problem(Split.VALIDATION, i) for i in range(100)])
    with torch.no_grad():
        return -float(policy.logp(solutions).sum() / solutions.mask_NT.sum())
