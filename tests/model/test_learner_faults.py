"""Faults injected into real steps: what is not finite changes nothing, and what is empty is a step of nothing."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.maths.distill import clamped_delta, masked_delta, proximal_delta, sampled_delta
from copd.model.learner import Learner
from copd.model.objectives import DistillObjective, GrpoObjective, over_constant, over_sequences, over_tokens

ADVANTAGE_N = torch.tensor([1.5, -0.5, 0.0, 0.7, -2.0, 1.0])
DELTAS = {
    "none": sampled_delta,
    "clamp": partial(clamped_delta, bound=5.0),
    "mask": partial(masked_delta, bound=5.0),
    "proximal": partial(proximal_delta, teacher_share=0.5),
}
AGGREGATES = {
    "sequence": over_sequences,
    "token": over_tokens,
    "constant": partial(over_constant, max_new_tokens=36),
}
NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, problems_of["text"])


def state_of(learner):
    return {name: tensor.clone() for name, tensor in learner.state().items() if name != "skipped_in_a_row"}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", [0, -1], ids=["first weight", "last weight"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_the_next_step_is_a_good_one(
    policy, rollouts, assert_same, place, value
):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    part = GrpoObjective("native", rollouts, 1.0, ADVANTAGE_N)
    assert not learner.step([part]).skipped
    before = state_of(learner)
    parameter = [p for name, p in learner.named_parameters.items() if "language_model" in name][place]

    def damaged(gradient):
        gradient = gradient.clone()
        gradient.view(-1)[0] = value
        return gradient

    hook = parameter.register_hook(damaged)
    assert learner.step([part]).skipped
    assert_same(state_of(learner), before)
    hook.remove()
    assert not learner.step([part]).skipped
    assert learner.skipped_in_a_row == 0


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
def test_a_teachers_log_prob_that_is_not_finite_costs_the_step_under_every_bound(
    policy, rollouts, assert_same, delta, value
):
    """One token of one response; the native part beside it is sound."""
    learner = Learner(policy.clone(), learning_rate=1e-3)
    before = state_of(learner)
    teacher_NT = policy.score(rollouts).logp_NT - 0.5 * rollouts.mask_NT
    parts = [GrpoObjective("native", rollouts, 1.0, ADVANTAGE_N)]
    assert (
        not Learner(policy.clone(), learning_rate=1e-3)
        .step([*parts, DistillObjective("opd", rollouts, 1.0, teacher_NT, delta)])
        .skipped
    )
    teacher_NT[2, 1] = value
    report = learner.step([*parts, DistillObjective("opd", rollouts, 1.0, teacher_NT, delta)])
    assert report.skipped
    assert not math.isfinite(report.metrics["opd/delta_abs"])
    assert_same(state_of(learner), before)


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
def test_what_a_teacher_says_of_padding_does_not_matter(policy, rollouts, assert_same, delta):
    learners = [Learner(policy.clone(), learning_rate=1e-3) for _ in range(2)]
    teacher_NT = policy.score(rollouts).logp_NT - 0.5 * rollouts.mask_NT
    for learner, padding in zip(learners, (0.0, math.nan), strict=True):
        logp_NT = torch.where(rollouts.mask_NT, teacher_NT, padding)
        assert not learner.step([DistillObjective("opd", rollouts, 1.0, logp_NT, delta)]).skipped
    assert_same(state_of(learners[1]), state_of(learners[0]))


@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "plain"])
def test_a_response_without_tokens_adds_nothing_but_itself_to_the_denominator(
    policy, rollouts, assert_same, aggregate, packing
):
    empty = replace(rollouts, mask_NT=rollouts.mask_NT & (torch.arange(6) != 3)[:, None])
    without = torch.where(torch.arange(6) == 3, 0.0, ADVANTAGE_N)
    moments = []
    for advantage_N in (ADVANTAGE_N, without):
        twin = policy.clone()
        twin.packing = packing
        learner = Learner(twin, learning_rate=1e-3, aggregate=aggregate, max_grad_norm=math.inf)
        report = learner.step([GrpoObjective("native", empty, 1.0, advantage_N)])
        assert not report.skipped
        assert report.metrics["grad_norm"] > 0
        moments.append({name: tensor for name, tensor in learner.state().items() if name.startswith("exp_avg/")})
    assert_same(*moments, atol=1e-6)


@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)
def test_rows_of_nothing_but_padding_are_a_step_of_nothing(policy, rollouts, assert_same, aggregate):
    learner = Learner(policy.clone(), learning_rate=1e-3, aggregate=aggregate)
    nothing = replace(rollouts, mask_NT=torch.zeros_like(rollouts.mask_NT))
    report = learner.step(
        [
            GrpoObjective("native", nothing, 1.0, ADVANTAGE_N),
            DistillObjective("opd", nothing, 1.0, torch.zeros(6, 7), DELTAS["clamp"]),
        ]
    )
    assert (report.skipped, report.tokens_trained) == (False, 0)
    assert report.metrics["grad_norm"] == 0.0
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(learner.named_parameters[name], parameter), name
