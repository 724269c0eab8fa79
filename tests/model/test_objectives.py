"""The objectives: which rows they need, the advantage and the penalty of each token, and their denominators."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.maths.distill import clamped_delta, masked_delta, proximal_delta, sampled_delta
from copd.model.objectives import (
    AnchoredGrpoObjective,
    DistillObjective,
    GrpoObjective,
    over_constant,
    over_sequences,
    over_tokens,
)

CLAMP2 = partial(clamped_delta, bound=2.0)
DELTAS = {
    "none": sampled_delta,
    "clamp": CLAMP2,
    "mask": partial(masked_delta, bound=2.0),
    "proximal": partial(proximal_delta, teacher_share=0.5),
}


def test_grpo_needs_the_rows_with_an_advantage_and_gives_all_tokens_of_a_row_the_same(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    part = GrpoObjective("native", rollouts, 1.0, torch.tensor([0.0, 2.0, -1.0, 0.0, 0.5, 0.0]))
    assert part.rows_with_gradient().tolist() == [1, 2, 4]
    advantage_MT, logged = part.advantage(torch.tensor([4, 1]), torch.zeros(2, 3, dtype=torch.float64))
    assert advantage_MT.tolist() == [[0.5] * 3, [2.0] * 3]
    assert advantage_MT.dtype == torch.float64
    assert logged == {}
    penalty_MT, logged = part.penalty(torch.tensor([4, 1]), torch.ones(2, 3))
    assert penalty_MT.tolist() == [[0.0] * 3] * 2
    assert logged == {}


def test_grpo_with_a_reference_needs_all_rows_and_takes_the_kl_off_each_token(policy, written, problems_of):
    reference_NT = torch.zeros(6, 7)
    reference_NT[4, :2] = torch.tensor([-1.0, -2.0])
    advantage_N = torch.tensor([0.0, 2.0, -1.0, 0.0, 0.5, 0.0])
    part = AnchoredGrpoObjective("native", written(policy, problems_of["text"]), 1.0, advantage_N, reference_NT, 0.5)
    assert part.rows_with_gradient().tolist() == list(range(6))
    logp_MT = torch.tensor([[-1.0, -1.0], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    penalty_MT, logged = part.penalty(torch.tensor([4, 1]), logp_MT)
    expected = [[0.0, math.exp(-1)], [0.0, math.exp(1) - 2]]
    assert logged["kl"].tolist() == [pytest.approx(row) for row in expected]
    assert not logged["kl"].requires_grad
    assert penalty_MT.tolist() == [pytest.approx([0.5 * kl for kl in row]) for row in expected]
    penalty_MT.sum().backward()
    gradient = [[0.0, 0.5 * (1 - math.exp(-1))], [0.0, 0.5 * (1 - math.exp(1))]]
    assert logp_MT.grad.tolist() == [pytest.approx(row) for row in gradient]
    assert part.advantage(torch.tensor([4, 1]), logp_MT)[0].tolist() == [[0.5] * 2, [2.0] * 2]


def test_distillation_needs_all_rows_and_gives_each_token_its_clamped_delta(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    teacher_NT = torch.arange(42.0).view(6, 7)
    part = DistillObjective("opd", rollouts, 1.0, teacher_NT, CLAMP2)
    assert part.rows_with_gradient().tolist() == list(range(6))
    logp_MT = torch.tensor([[28.0, 28.0, 20.0], [3.5, 9.0, -50.0]], dtype=torch.float64)
    advantage_MT, logged = part.advantage(torch.tensor([4, 1]), logp_MT)
    assert advantage_MT.tolist() == [[0.0, 1.0, 2.0], [2.0, -1.0, 2.0]]
    assert logged["delta"].tolist() == advantage_MT.tolist()
    assert logged["delta_abs"].tolist() == [[0.0, 1.0, 2.0], [2.0, 1.0, 2.0]]
    assert logged["clamp_rate"].tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    assert part.penalty(torch.tensor([4, 1]), logp_MT)[0].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("delta", "expected", "changed"),
    [
        (partial(masked_delta, bound=2.0), [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]),
        (partial(proximal_delta, teacher_share=0.5), [0.0, math.log(0.5 * math.e + 0.5), 7.3072], [0.0, 1.0, 1.0]),
    ],
)
def test_the_bound_of_the_delta_is_the_one_that_was_chosen(policy, written, problems_of, delta, expected, changed):
    part = DistillObjective("opd", written(policy, problems_of["text"]), 1.0, torch.arange(42.0).view(6, 7), delta)
    advantage_MT, logged = part.advantage(torch.tensor([4]), torch.tensor([[28.0, 28.0, 22.0]]))
    assert advantage_MT.tolist() == [pytest.approx(expected, rel=1e-4)]
    assert logged["clamp_rate"].tolist() == [changed]


@pytest.mark.parametrize(
    ("over", "denominator"),
    [(over_sequences, 6), (over_tokens, 26), (partial(over_constant, max_new_tokens=36), 6 * 36)],
)
def test_denominators_are_those_of_all_rows_of_a_part(policy, written, problems_of, over, denominator):
    aggregate = over(written(policy, problems_of["text"]))
    assert aggregate(torch.tensor([[5.0]]), torch.tensor([[True]])).item() == pytest.approx(5 / denominator)


def test_a_teacher_that_is_nearly_certain_of_another_token_is_bounded_by_the_clamp(policy, written, problems_of):
    part = DistillObjective("opd", written(policy, problems_of["text"]), 1.0, torch.full((6, 7), -3e38), CLAMP2)
    advantage_MT, logged = part.advantage(torch.tensor([0]), torch.full((1, 7), -1.0))
    assert advantage_MT.tolist() == [[-2.0] * 7]
    assert all(bool(torch.isfinite(value).all()) for value in logged.values())


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
def test_no_bound_makes_a_log_prob_of_the_teacher_finite(policy, written, problems_of, delta, value):
    teacher_NT = torch.full((6, 7), -1.0)
    teacher_NT[0, 2] = value
    part = DistillObjective("opd", written(policy, problems_of["text"]), 1.0, teacher_NT, delta)
    advantage_MT, logged = part.advantage(torch.tensor([0]), torch.full((1, 7), -1.0))
    assert advantage_MT.isfinite().tolist() == [[True, True, False, True, True, True, True]]
    assert not logged["delta_abs"].isfinite().all()


def test_a_part_without_a_single_token_has_the_mean_zero(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    nothing = replace(rollouts, mask_NT=torch.zeros_like(rollouts.mask_NT))
    for over in (over_sequences, over_tokens, partial(over_constant, max_new_tokens=36)):
        assert over(nothing)(torch.ones(6, 7), nothing.mask_NT).item() == 0.0
