"""Truncated importance weights: values by hand, and what the cap and the gradient do."""

import math

import pytest
import torch

from copd.maths.importance import effective_share, importance_weights


def test_a_weight_is_the_ratio_of_trainer_to_sampler_up_to_the_cap():
    logp_NT = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 0.0, -1.0]], dtype=torch.float64)
    ratio_NT = torch.tensor([[1.0, 0.5, 1.9], [0.1, 2.0, 7.0]], dtype=torch.float64)
    weight_NT = importance_weights(logp_NT, logp_NT - ratio_NT.log(), cap=2.0)
    assert weight_NT.tolist() == [pytest.approx([1.0, 0.5, 1.9]), pytest.approx([0.1, 2.0, 2.0])]


def test_where_both_agree_the_weight_is_exactly_one():
    logp_NT = -torch.rand(50, 9).exp()
    assert torch.equal(importance_weights(logp_NT, logp_NT.clone(), cap=1.0), torch.ones(50, 9))


def test_no_gradient_flows_into_either_log_prob():
    logp_NT = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    sampler_NT = torch.tensor([[-1.5, -1.0]], requires_grad=True)
    (importance_weights(logp_NT, sampler_NT, cap=2.0) * logp_NT).sum().backward()
    assert logp_NT.grad.tolist() == [pytest.approx([math.exp(0.5), math.exp(-1.0)])]
    assert sampler_NT.grad is None


def test_a_log_prob_that_is_not_a_number_stays_visible():
    weight_NT = importance_weights(torch.tensor([[math.nan, -1.0]]), torch.tensor([[-1.0, math.nan]]), cap=2.0)
    assert weight_NT.isnan().all()


def test_weighted_means_of_the_samplers_tokens_are_the_trainers():
    trainer_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    sampler_V = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    value_V = torch.tensor([2.0, -1.0, 5.0], dtype=torch.float64)
    weight_V = importance_weights(trainer_V.log(), sampler_V.log(), cap=10.0)
    assert float((sampler_V * weight_V * value_V).sum()) == pytest.approx(float((trainer_V * value_V).sum()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, 1.0, 1.0], 1.0),
        ([2.0, 0.0], 0.5),
        ([1.0, 2.0, 3.0], 36 / 42),
        ([0.5, 0.5], 1.0),
        ([0.0, 0.0], 0.0),
        ([0.1] * 3, 1.0),
    ],
)
def test_the_effective_share_is_that_of_kish(weights, expected):
    mean = sum(weights) / len(weights)
    mean_of_squares = sum(weight**2 for weight in weights) / len(weights)
    assert effective_share(mean, mean_of_squares) == pytest.approx(expected)


def test_rounding_does_not_lift_the_effective_share_above_one():
    assert effective_share(1.0, 1.0 - 1e-9) == 1.0
