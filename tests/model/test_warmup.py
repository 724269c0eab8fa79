"""The supervised warm-up: worked solutions as rollouts, and their likelihood as the objective."""

import math

import pytest
import torch

from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.model.warmup import WarmupPlan, demonstrations, warm_up
from copd.types import Split


def test_demonstrations_are_the_worked_solutions_each_ended_by_the_end_token(policy, problems_of, kind):
    rollouts = demonstrations(policy, problems_of[kind])
    assert policy.texts(rollouts) == [problem.solution for problem in problems_of[kind]]
    length_N = rollouts.mask_NT.sum(-1)
    assert torch.equal(rollouts.tokens_NT[torch.arange(3), length_N - 1], policy.end_ids.expand(3))
    assert bool(rollouts.finished_N.all())
    assert rollouts.prompt_of_N.tolist() == [0, 1, 2]
    assert len(set(length_N.tolist())) > 1


def test_the_objective_of_the_warm_up_is_the_mean_negative_log_likelihood(
    policy64, problems_of, gradients, assert_same
):
    problems = [*problems_of["text"], problems_of["image"][2]]
    rollouts = demonstrations(policy64, problems)
    learner = Learner(policy64.clone(), learning_rate=1e-3, betas=(0.0, 0.99), max_grad_norm=math.inf)
    learner.step([GrpoObjective("text", rollouts, 1.0, torch.ones(4))])
    state = learner.state()
    found = {name: state[f"exp_avg/{name}"] for name in learner.named_parameters}

    rows = zip(policy64.logp(rollouts), rollouts.mask_NT, strict=True)
    likelihood_N = torch.stack([logp_T[mask_T].mean() for logp_T, mask_T in rows])
    assert_same(found, gradients(policy64, -likelihood_N.mean()), atol=1e-8)


def test_the_warm_up_teaches_worked_solutions_of_all_kinds(solver, problems_of, kind):
    found = solver.sample(problems_of[kind][:2], max_new_tokens=30)
    assert solver.texts(found) == [problem.solution for problem in problems_of[kind][:2]]
    assert bool(found.finished_N.all())


def test_every_step_is_reported_and_takes_the_next_training_problems_of_every_task(policy, few, problems_of):
    asked, reported = [], []

    class Watched(few):
        def problem(self, split, index):
            asked.append((self.name, split, index))
            return super().problem(split, index)

    tasks = [Watched(kind, problems_of[kind]) for kind in ("text", "image")]
    plan = WarmupPlan(steps=2, problems_per_step=2)
    warm_up(policy.clone(), tasks, plan, lambda step, steps: reported.append((step, steps)))
    assert reported == [(0, 2), (1, 2)]
    assert asked == [
        (name, Split.TRAIN, index) for first in (0, 2) for name in ("text", "image") for index in (first, first + 1)
    ]


def test_the_same_plan_gives_the_same_base(policy, few, problems_of, assert_same):
    bases = [policy.clone(), policy.clone()]
    for base in bases:
        warm_up(base, [few("text", problems_of["text"])], WarmupPlan(steps=3, problems_per_step=2), lambda *_: None)
    first, second = (dict(base.model.named_parameters()) for base in bases)
    assert_same(first, second)
    assert not torch.equal(first["model.language_model.norm.weight"], policy.model.model.language_model.norm.weight)


@pytest.mark.parametrize("kinds", [("text",), ("text", "video")])
def test_a_few_steps_make_the_worked_solutions_likelier(policy, few, problems_of, kinds):
    base = policy.clone()

    def likelihood(which):
        return [float(which.score(demonstrations(which, problems_of[kind])).logp_NT.sum()) for kind in kinds]

    tasks = [few(kind, problems_of[kind]) for kind in kinds]
    warm_up(base, tasks, WarmupPlan(steps=5, problems_per_step=3), lambda *_: None)
    assert all(after > before for after, before in zip(likelihood(base), likelihood(policy), strict=True))
