"""Surrogate, KL and aggregation: hand-computed values, gradients, and independence of padding and of the split."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from copd.maths.losses import clipped_surrogate, constant_mean, is_clipped, k3_kl, sequence_mean, token_mean

CLIP = {"clip_low": 0.2, "clip_high": 0.28}

MEANS = {
    "sequence": partial(sequence_mean, sequences=6.0),
    "token": partial(token_mean, tokens=15.0),
    "constant": partial(constant_mean, sequences=6.0, max_new_tokens=9),
}
"""With the denominators of `batch`: six responses of 15 tokens in all, and a limit longer than any of them."""

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


@pytest.fixture(params=MEANS)
def aggregation(request):
    return request.param


def objective(logp_NT, old_logp_NT, advantage_NT, mask_NT, mean="sequence"):
    return MEANS[mean](clipped_surrogate(logp_NT, old_logp_NT, advantage_NT, **CLIP), mask_NT)


def naive_objective(logp_NT, old_logp_NT, advantage_NT, mask_NT, mean) -> float:
    total, all_tokens = 0.0, int(mask_NT.sum())
    for n in range(len(logp_NT)):
        tokens = [t for t in range(logp_NT.shape[1]) if mask_NT[n, t]]
        for t in tokens:
            ratio = math.exp(float(logp_NT[n, t]) - float(old_logp_NT[n, t]))
            advantage = float(advantage_NT[n, t])
            weight = {"sequence": 1 / (6 * len(tokens)), "token": 1 / all_tokens, "constant": 1 / (6 * 9)}[mean]
            total += weight * min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
    return total


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


def test_objective_matches_a_naive_loop(aggregation):
    found = objective(**batch(), mean=aggregation).item()
    assert found == pytest.approx(naive_objective(**batch(), mean=aggregation), rel=1e-12)


def test_objective_passes_gradcheck_in_float64(aggregation):
    given = batch()
    logp_NT = given.pop("logp_NT").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x, **given, mean=aggregation), (logp_NT,))


def test_every_mean_passes_gradcheck_in_float64(aggregation):
    given = batch()
    value_NT = given["logp_NT"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MEANS[aggregation](x, given["mask_NT"]), (value_NT,))


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


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (partial(sequence_mean, sequences=2), (2.0 + 4.0) / 2),
        (partial(token_mean, tokens=4), 10.0 / 4),
        (partial(constant_mean, sequences=2, max_new_tokens=5), 10.0 / 10),
        (partial(token_mean, tokens=10), 1.0),
        (partial(constant_mean, sequences=4, max_new_tokens=5), 0.5),
    ],
)
def test_every_mean_by_hand(mean, expected):
    value_NT = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 60.0]])
    mask_NT = torch.tensor([[True, True, True], [True, False, False]])
    assert mean(value_NT, mask_NT).item() == expected


@pytest.mark.parametrize(
    ("chosen", "share"), [("sequence", 1 / 12), ("token", 1 / 15), ("constant", 1 / 54)], ids=list(MEANS)
)
def test_what_one_token_of_a_response_of_two_weighs(chosen, share):
    value_NT = torch.zeros(6, 5, dtype=torch.float64)
    value_NT[5, 1] = 1.0
    assert MEANS[chosen](value_NT, batch()["mask_NT"]).item() == pytest.approx(share)


def test_where_all_responses_have_the_greatest_length_the_three_means_are_one():
    value_NT, mask_NT = batch()["logp_NT"], torch.ones(6, 5, dtype=torch.bool)
    expected = pytest.approx(value_NT.mean().item())
    assert sequence_mean(value_NT, mask_NT, sequences=6).item() == expected
    assert token_mean(value_NT, mask_NT, tokens=30).item() == expected
    assert constant_mean(value_NT, mask_NT, sequences=6, max_new_tokens=5).item() == expected


def test_every_response_counts_alike_however_long():
    value_NT = torch.tensor([[1.0] * 8, [0.0] * 8])
    mask_NT = torch.tensor([[True] * 8, [True] + [False] * 7])
    assert sequence_mean(value_NT, mask_NT, sequences=2).item() == 0.5


def test_responses_left_out_still_count():
    kept = sequence_mean(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), sequences=8)
    assert kept.item() == 0.25


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_content_is_ignored(junk, aggregation):
    given, mean = batch(), MEANS[aggregation]
    value_NT, mask_NT = given["logp_NT"], given["mask_NT"]
    dirty_NT = torch.where(mask_NT, value_NT, junk).requires_grad_()
    loss = mean(dirty_NT, mask_NT)
    loss.backward()
    assert loss.item() == mean(value_NT, mask_NT).item()
    assert torch.equal(dirty_NT.grad != 0, mask_NT)


def test_more_padding_changes_nothing(aggregation):
    given = batch()
    wide = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in given.items()}
    found = objective(**wide, mean=aggregation).item()
    assert found == pytest.approx(objective(**given, mean=aggregation).item(), abs=1e-15)


def test_a_response_without_tokens_adds_nothing():
    value_NT = torch.tensor([[3.0, 5.0], [7.0, 7.0]], requires_grad=True)
    loss = sequence_mean(value_NT, torch.tensor([[True, True], [False, False]]), sequences=2)
    loss.backward()
    assert loss.item() == 2.0
    assert value_NT.grad.tolist() == [[0.25, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize("split", [[6], [3, 3], [1, 5], [1, 1, 1, 1, 1, 1], [2, 3, 1]])
def test_gradient_does_not_depend_on_the_split_into_micro_batches(split, aggregation):
    given = batch()
    logp_NT = given.pop("logp_NT").requires_grad_()
    objective(logp_NT, **given, mean=aggregation).backward()
    whole_NT, logp_NT.grad = logp_NT.grad, None
    for rows in torch.arange(6).split(split):
        rows_of = {name: tensor[rows] for name, tensor in given.items()}
        objective(logp_NT[rows], **rows_of, mean=aggregation).backward()
    torch.testing.assert_close(logp_NT.grad, whole_NT, rtol=0, atol=1e-15)


def test_order_of_the_rows_does_not_matter(aggregation):
    given, order_N = batch(), torch.tensor([4, 0, 5, 2, 1, 3])
    permuted = {name: tensor[order_N] for name, tensor in given.items()}
    found = objective(**permuted, mean=aggregation).item()
    assert found == pytest.approx(objective(**given, mean=aggregation).item(), abs=1e-15)


def policy_and_reference(distance: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a distribution over seven tokens, and of a reference that lies `distance` away from it."""
    generator = torch.Generator().manual_seed(2)
    logits_V = torch.randn(7, generator=generator, dtype=torch.float64)
    reference_V = logits_V + distance * torch.randn(7, generator=generator, dtype=torch.float64)
    return logits_V.requires_grad_(), reference_V


def expected_gradient_of_k3(logits_V, reference_V):
    """E over y ~ policy of grad k3(y), by adding up all tokens."""
    logp_V = logits_V.log_softmax(-1)
    k3_V = k3_kl(logp_V, reference_V.log_softmax(-1))
    return torch.autograd.grad((logp_V.detach().exp() * k3_V).sum(), logits_V)[0]


@pytest.mark.parametrize(
    ("logp", "reference", "expected"),
    [
        (math.log(0.5), math.log(0.25), 0.5 - math.log(0.5) - 1),
        (math.log(0.25), math.log(0.5), 2.0 - math.log(2.0) - 1),
        (-3.0, -3.0, 0.0),
        (-1.0, -math.inf, math.inf),
    ],
)
def test_k3_has_hand_computed_values(logp, reference, expected):
    found = k3_kl(torch.tensor([logp], dtype=torch.float64), torch.tensor([reference], dtype=torch.float64))
    assert found.item() == pytest.approx(expected)


def test_k3_is_never_negative_and_keeps_its_digits_near_zero():
    generator = torch.Generator().manual_seed(0)
    logp_NT = -3 * torch.rand(50, 50, generator=generator)
    gap_NT = torch.randn(50, 50, generator=generator)
    for distance in (1.0, 1e-2, 1e-4, 1e-6):
        assert k3_kl(logp_NT, logp_NT + distance * gap_NT).ge(0).all()
    near = k3_kl(torch.zeros(1), torch.tensor([1e-3]))
    assert near.item() == pytest.approx(1e-6 / 2, rel=1e-3)


def test_k3_passes_gradcheck_in_float64():
    logp_NT = batch()["logp_NT"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: k3_kl(x, batch()["old_logp_NT"]), (logp_NT,))


def test_no_gradient_flows_into_the_reference():
    reference_NT = batch()["old_logp_NT"].requires_grad_()
    assert not k3_kl(batch()["logp_NT"], reference_NT).requires_grad


def test_the_expected_value_of_k3_is_the_kl_from_policy_to_reference():
    logits_V, reference_V = policy_and_reference()
    logp_V = logits_V.log_softmax(-1)
    expected = kl_divergence(Categorical(logits=logits_V), Categorical(logits=reference_V)).item()
    found = (logp_V.exp() * k3_kl(logp_V, reference_V.log_softmax(-1))).sum().item()
    assert found == pytest.approx(expected)
    assert expected > 0.1


def test_the_expected_gradient_of_k3_is_that_of_the_kl_from_reference_to_policy_and_not_of_the_other():
    logits_V, reference_V = policy_and_reference()
    reference = Categorical(logits=reference_V)
    found_V = expected_gradient_of_k3(logits_V, reference_V)
    (forward_V,) = torch.autograd.grad(kl_divergence(reference, Categorical(logits=logits_V)), logits_V)
    (reverse_V,) = torch.autograd.grad(kl_divergence(Categorical(logits=logits_V), reference), logits_V)
    torch.testing.assert_close(found_V, forward_V)
    assert (found_V - reverse_V).norm() > 0.2 * reverse_V.norm()


def test_near_the_reference_the_gradient_of_k3_is_that_of_either_kl():
    errors = []
    for distance in (1e-1, 1e-2, 1e-3):
        logits_V, reference_V = policy_and_reference(distance)
        kl = kl_divergence(Categorical(logits=logits_V), Categorical(logits=reference_V))
        (reverse_V,) = torch.autograd.grad(kl, logits_V)
        errors.append(float((expected_gradient_of_k3(logits_V, reference_V) - reverse_V).norm() / reverse_V.norm()))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01
