"""The clipped surrogate and its aggregation: corners, gradients, and independence of padding and of the split."""

import math

import pytest
import torch

from copd.maths.losses import clipped_surrogate, is_clipped, sequence_mean

CLIP = {"clip_low": 0.2, "clip_high": 0.28}

CORNERS = [
    (1.5, 1.0, 1.28, True),
    (0.5, 1.0, 0.5, False),
    (1.5, -1.0, -1.5, False),
    (0.5, -1.0, -0.8, True),
    (1.1, 2.0, 2.2, False),
    (0.9, -2.0, -1.8, False),
    (1.0, -3.0, -3.0, False),
    (1.27, 1.0, 1.27, False),
    (0.81, -1.0, -0.81, False),
    (9.0, 0.0, 0.0, False),
    (0.1, 0.0, 0.0, False),
]


def batch() -> dict[str, torch.Tensor]:
    """Six responses of 0 to 5 tokens, ratios on both sides of both clips."""
    generator = torch.Generator().manual_seed(1)
    logp_NT = -2 * torch.rand(6, 5, generator=generator, dtype=torch.float64)
    mask_NT = torch.arange(5) < torch.tensor([5, 3, 1, 0, 4, 2])[:, None]
    return {
        "logp_NT": logp_NT,
        "old_logp_NT": logp_NT + 0.6 * torch.randn(6, 5, generator=generator, dtype=torch.float64),
        "advantage_NT": torch.randn(6, 5, generator=generator, dtype=torch.float64),
        "mask_NT": mask_NT,
    }


def objective(logp_NT, old_logp_NT, advantage_NT, mask_NT, sequences=6.0):
    return sequence_mean(clipped_surrogate(logp_NT, old_logp_NT, advantage_NT, **CLIP), mask_NT, sequences=sequences)


def naive_objective(logp_NT, old_logp_NT, advantage_NT, mask_NT, sequences=6.0) -> float:
    total = 0.0
    for n in range(len(logp_NT)):
        tokens = [t for t in range(logp_NT.shape[1]) if mask_NT[n, t]]
        for t in tokens:
            ratio = math.exp(float(logp_NT[n, t]) - float(old_logp_NT[n, t]))
            advantage = float(advantage_NT[n, t])
            total += min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage) / len(tokens)
    return total / sequences


@pytest.mark.parametrize(("ratio", "advantage", "expected", "clipped"), CORNERS)
def test_surrogate_has_hand_computed_value_at_every_corner(ratio, advantage, expected, clipped):
    at = torch.tensor([[math.log(ratio)]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    advantage_NT = torch.tensor([[advantage]], dtype=torch.float64)
    assert clipped_surrogate(*at, advantage_NT, **CLIP).item() == pytest.approx(expected)
    assert is_clipped(*at, advantage_NT, **CLIP).item() is clipped


def test_the_clips_may_differ():
    ratio_NT = torch.tensor([[2.0, 0.1]], dtype=torch.float64)
    found_NT = clipped_surrogate(
        ratio_NT.log(), torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), clip_low=0.3, clip_high=0.5
    )
    assert found_NT.tolist() == [[pytest.approx(1.5), pytest.approx(-0.7)]]


def test_objective_matches_a_naive_loop():
    assert objective(**batch()).item() == pytest.approx(naive_objective(**batch()))


def test_objective_passes_gradcheck_in_float64():
    given = batch()
    logp_NT = given.pop("logp_NT").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x, **given), (logp_NT,))


def test_sequence_mean_passes_gradcheck_in_float64():
    given = batch()
    value_NT = given["logp_NT"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sequence_mean(x, given["mask_NT"], sequences=4), (value_NT,))


def test_clipped_tokens_and_only_they_have_no_gradient():
    given = batch()
    del given["mask_NT"]
    logp_NT = given["logp_NT"].requires_grad_()
    clipped_surrogate(**given, **CLIP).sum().backward()
    dead_NT = is_clipped(**given, **CLIP)
    assert 0 < dead_NT.sum() < dead_NT.numel()
    assert torch.equal(logp_NT.grad == 0, dead_NT)


def test_with_one_pass_the_gradient_is_the_policy_gradient():
    advantage_NT = torch.tensor([[2.0, -1.0, 0.0]], dtype=torch.float64)
    logp_NT = torch.tensor([[-0.1, -2.0, -7.0]], dtype=torch.float64, requires_grad=True)
    clipped_surrogate(logp_NT, logp_NT.detach(), advantage_NT, **CLIP).sum().backward()
    assert torch.equal(logp_NT.grad, advantage_NT)


def test_sequence_mean_by_hand():
    value_NT = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 60.0]])
    mask_NT = torch.tensor([[True, True, True], [True, False, False]])
    assert sequence_mean(value_NT, mask_NT, sequences=2).item() == 3.0


def test_every_response_counts_alike_however_long():
    value_NT = torch.tensor([[1.0] * 8, [0.0] * 8])
    mask_NT = torch.tensor([[True] * 8, [True] + [False] * 7])
    assert sequence_mean(value_NT, mask_NT, sequences=2).item() == 0.5


def test_responses_left_out_still_count():
    kept = sequence_mean(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), sequences=8)
    assert kept.item() == 0.25


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_content_is_ignored(junk):
    given = batch()
    value_NT, mask_NT = given["logp_NT"], given["mask_NT"]
    dirty_NT = torch.where(mask_NT, value_NT, junk).requires_grad_()
    loss = sequence_mean(dirty_NT, mask_NT, sequences=6)
    loss.backward()
    assert loss.item() == sequence_mean(value_NT, mask_NT, sequences=6).item()
    assert torch.equal(dirty_NT.grad != 0, mask_NT)


def test_more_padding_changes_nothing():
    given = batch()
    wide = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in given.items()}
    assert objective(**wide).item() == pytest.approx(objective(**given).item(), abs=1e-15)


def test_a_response_without_tokens_adds_nothing():
    value_NT = torch.tensor([[3.0, 5.0], [7.0, 7.0]], requires_grad=True)
    loss = sequence_mean(value_NT, torch.tensor([[True, True], [False, False]]), sequences=2)
    loss.backward()
    assert loss.item() == 2.0
    assert value_NT.grad.tolist() == [[0.25, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize("split", [[6], [3, 3], [1, 5], [1, 1, 1, 1, 1, 1], [2, 3, 1]])
def test_gradient_does_not_depend_on_the_split_into_micro_batches(split):
    given = batch()
    logp_NT = given.pop("logp_NT").requires_grad_()
    objective(logp_NT, **given).backward()
    whole_NT, logp_NT.grad = logp_NT.grad, None
    for rows in torch.arange(6).split(split):
        objective(logp_NT[rows], **{name: tensor[rows] for name, tensor in given.items()}).backward()
    torch.testing.assert_close(logp_NT.grad, whole_NT, rtol=0, atol=1e-15)


def test_order_of_the_rows_does_not_matter():
    given, order_N = batch(), torch.tensor([4, 0, 5, 2, 1, 3])
    permuted = {name: tensor[order_N] for name, tensor in given.items()}
    assert objective(**permuted).item() == pytest.approx(objective(**given).item(), abs=1e-15)
