"""The objectives: which rows they need, and the advantage of each token."""

import torch

from copd.model.parts import DistillObjective, GrpoObjective


def test_grpo_needs_the_rows_with_an_advantage_and_gives_all_tokens_of_a_row_the_same(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    part = GrpoObjective("native", rollouts, 1.0, torch.tensor([0.0, 2.0, -1.0, 0.0, 0.5, 0.0]))
    assert part.rows_with_gradient().tolist() == [1, 2, 4]
    advantage_MT, logged = part.advantage(torch.tensor([4, 1]), torch.zeros(2, 3, dtype=torch.float64))
    assert advantage_MT.tolist() == [[0.5] * 3, [2.0] * 3]
    assert advantage_MT.dtype == torch.float64
    assert logged == {}


def test_distillation_needs_all_rows_and_gives_each_token_its_clamped_delta(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    teacher_NT = torch.arange(42.0).view(6, 7)
    part = DistillObjective("opd", rollouts, 1.0, teacher_NT, clamp=2.0)
    assert part.rows_with_gradient().tolist() == list(range(6))
    logp_MT = torch.tensor([[28.0, 28.0, 20.0], [3.5, 9.0, -50.0]], dtype=torch.float64)
    advantage_MT, logged = part.advantage(torch.tensor([4, 1]), logp_MT)
    assert advantage_MT.tolist() == [[0.0, 1.0, 2.0], [2.0, -1.0, 2.0]]
    assert logged["delta"].tolist() == advantage_MT.tolist()
    assert logged["delta_abs"].tolist() == [[0.0, 1.0, 2.0], [2.0, 1.0, 2.0]]
    assert logged["clamp_rate"].tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]


def test_a_teacher_that_is_certain_of_another_token_is_bounded_by_the_clamp(policy, written, problems_of):
    part = DistillObjective("opd", written(policy, problems_of["text"]), 1.0, torch.full((6, 7), -torch.inf), 5.0)
    advantage_MT, logged = part.advantage(torch.tensor([0]), torch.full((1, 7), -1.0))
    assert advantage_MT.tolist() == [[-5.0] * 7]
    assert all(bool(torch.isfinite(value).all()) for value in logged.values())
