"""The recipes of the paper's experiment: they agree with each other and with the paper, and can be planned."""

from pathlib import Path

import pytest
import yaml

from copd.arms.comparison import as_overrides, read_comparison
from copd.arms.jobs import jobs_of
from copd.assemble.plan import make_plan
from copd.recipe.reading import load_recipe
from copd.schedule import Phase

FOLDER = Path(__file__).parents[2] / "recipes" / "paper"


def test_two_branches_are_three_without_video():
    two, three = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("two", "three"))
    del three["branches"]["video"]
    assert two == three


@pytest.mark.parametrize("name", ["two", "three"])
def test_the_recipe_has_the_papers_values(name):
    recipe = load_recipe(str(FOLDER / f"{name}.yaml"))
    sampling, grpo, schedule = recipe.sampling, recipe.grpo, recipe.schedule
    assert (sampling.prompts_per_step, sampling.rollouts_per_prompt, sampling.max_new_tokens) == (256, 8, 16384)
    assert (grpo.clip_low, grpo.clip_high, grpo.kl_coefficient, sampling.temperature) == (0.2, 0.28, 0, 1)
    assert schedule.rl_steps / schedule.opd_steps == 1.5
    assert recipe.optimizer.learning_rate == 1e-6
    assert next(iter(recipe.branches)) == "text", "the paper's hub"


@pytest.mark.parametrize("name", ["two", "three"])
def test_all_arms_spend_what_copd_spends(name):
    comparison = read_comparison(FOLDER / f"{name}_branches.yaml")
    jobs = [job for job in jobs_of(comparison, (0,), {}) if job.arm]
    assert make_plan(load_recipe(comparison.recipe)).rollouts == comparison.rollouts
    assert {
        job.arm: abs(make_plan(job.recipe).rollouts / comparison.rollouts - 1) <= 0.05 for job in jobs
    } == dict.fromkeys(comparison.arms, True)
    assert all(job.recipe.backend.ranks == 2 for job in jobs), "arms keep the recipe's backend"


def test_the_steps_of_our_winning_form_are_those_that_its_budget_pays_for():
    for name in ("two", "three"):
        comparison = read_comparison(FOLDER / f"{name}_branches.yaml")
        for arm in {"one_cycle", "replay"} & comparison.arms.keys():
            asked = load_recipe(comparison.recipe, as_overrides(comparison.arms[arm]))
            (job,) = [job for job in jobs_of(comparison, (0,), {}) if job.arm == arm]
            made, wanted = (make_plan(recipe).schedule for recipe in (job.recipe, asked))
            for phase in (Phase.RLVR, Phase.CONSOLIDATION):
                assert abs(made.steps_in(phase) - wanted.steps_in(phase)) <= 2
