"""Importance weights in the objectives: what they multiply, what they leave alone, and the gradient that results."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.model.objectives import (
    AnchoredGrpoObjective,
    DistillObjective,
    GrpoObjective,
    ReweightedObjective,
    with_effective_share,
)

ADVANTAGES = (1.5, -0.5, 0.0, 0.7, -2.0, 0.0)
ROWS = torch.tensor([4, 1])


@pytest.fixture
def rollouts(policy64, written, problems_of):
    """Responses whose sampler's log-probs lie beside the trainer's, by up to a factor of three either way."""
    own = written(policy64, problems_of["text"])
    off_NT = torch.linspace(-math.log(3), math.log(3), own.mask_NT.numel(), dtype=torch.float64).view(own.mask_NT.shape)
    return replace(own, logp_NT=torch.where(own.mask_NT, policy64.score(own).logp_NT.double() - off_NT, 0.0))


def ratios(policy, rollouts, cap):
    gap_NT = policy.score(rollouts).logp_NT.double() - rollouts.logp_NT
    return torch.where(rollouts.mask_NT, gap_NT.exp().clamp(max=cap), 0.0)


def stepped(policy, objective):
    """The gradient that one step took, read from AdamW's first moment, and the step's metrics."""
    learner = Learner(policy.clone(), learning_rate=1e-3, betas=(0.0, 0.99), max_grad_norm=math.inf)
    report = learner.step([objective])
    state = learner.state()
    return {name: state[f"exp_avg/{name}"] for name in learner.named_parameters}, report.metrics


def test_advantages_and_penalties_are_multiplied_token_by_token(written, policy, problems_of):
    own = written(policy, problems_of["text"])
    own = replace(own, logp_NT=torch.full(own.logp_NT.shape, -1.0))
    advantage_N = torch.tensor([0.0, 2.0, -1.0, 0.0, 0.5, 0.0])
    reference_NT = torch.zeros(own.logp_NT.shape)
    part = AnchoredGrpoObjective("native", own, 0.5, advantage_N, reference_NT, 1.0)
    weighted = ReweightedObjective(part, cap=2.0)
    logp_MT = torch.tensor([[-1.0, -1.0 + math.log(1.5)], [-1.0 - math.log(4), 1.0]], dtype=torch.float64)
    weight_MT = torch.tensor([[1.0, 1.5], [0.25, 2.0]], dtype=torch.float64)
    advantage_MT, logged = weighted.advantage(ROWS, logp_MT)
    torch.testing.assert_close(advantage_MT, weight_MT * torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    torch.testing.assert_close(logged["importance"], weight_MT)
    torch.testing.assert_close(logged["importance_squared"], weight_MT**2)
    penalty_MT, logged = weighted.penalty(ROWS, logp_MT)
    bare_MT, bare = part.penalty(ROWS, logp_MT)
    torch.testing.assert_close(penalty_MT, weight_MT * bare_MT)
    assert torch.equal(logged["kl"], bare["kl"]), "what is logged is the KL, not its share of the objective"
    assert (weighted.name, weighted.weight, weighted.rollouts) == ("native", 0.5, own)
    assert weighted.rows_with_gradient().tolist() == part.rows_with_gradient().tolist()
    assert weighted.key_N is part.key_N
    assert weighted.target(ROWS) is None


@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_the_gradient_of_grpo_is_that_of_the_weighted_policy_gradient(policy64, rollouts, gradients, assert_same, cap):
    objective = GrpoObjective("native", rollouts, 1.0, torch.tensor(ADVANTAGES, dtype=torch.float64))
    taken, metrics = stepped(policy64, ReweightedObjective(objective, cap=cap))
    weight_NT = ratios(policy64, rollouts, cap)
    advantage_N1 = torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None]
    per_row_N = (policy64.logp(rollouts) * weight_NT * advantage_N1).sum(-1) / rollouts.mask_NT.sum(-1)
    assert_same(taken, gradients(policy64, -per_row_N.sum() / len(per_row_N)), atol=1e-10)
    trained_NT = rollouts.mask_NT & (advantage_N1 != 0)
    assert metrics["native/importance"] == pytest.approx(float(weight_NT[trained_NT].mean()))
    assert metrics["native/importance_squared"] == pytest.approx(float(weight_NT[trained_NT].square().mean()))


def test_the_gradient_of_the_sampled_signal_is_weighted_and_its_delta_is_logged_as_it_is(
    policy64, rollouts, gradients, assert_same
):
    teacher_NT = policy64.score(rollouts).logp_NT.double() + torch.where(rollouts.mask_NT, 0.3, 0.0)
    objective = DistillObjective("opd", rollouts, 1.0, teacher_NT, partial(clamped_delta, bound=5.0))
    taken, metrics = stepped(policy64, ReweightedObjective(objective, cap=2.0))
    per_row_N = (policy64.logp(rollouts) * ratios(policy64, rollouts, 2.0) * 0.3).sum(-1) / rollouts.mask_NT.sum(-1)
    assert_same(taken, gradients(policy64, -per_row_N.sum() / len(per_row_N)), atol=1e-7)
    assert metrics["opd/delta"] == pytest.approx(0.3, abs=1e-5)


def test_where_the_sampler_is_the_trainer_the_step_is_that_without_weights(policy64, rollouts, assert_same):
    own = replace(rollouts, logp_NT=policy64.score(rollouts).logp_NT.double())
    objective = GrpoObjective("native", own, 1.0, torch.tensor(ADVANTAGES, dtype=torch.float64))
    (bare, _), (weighted, metrics) = (stepped(policy64, o) for o in (objective, ReweightedObjective(objective, 2.0)))
    assert_same(bare, weighted, atol=1e-7)
    assert with_effective_share(metrics)["native/effective_share"] == pytest.approx(1.0, abs=1e-6)


def test_the_effective_share_takes_the_place_of_the_mean_square():
    metrics = {"a/importance": 2.0, "a/importance_squared": 8.0, "b/importance": 1.0, "grad_norm": 3.0}
    assert with_effective_share(metrics) == {
        "a/importance": 2.0,
        "a/effective_share": 0.5,
        "b/importance": 1.0,
        "grad_norm": 3.0,
    }
