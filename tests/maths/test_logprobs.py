"""Log-probs under the vocabulary mask against scipy; drawing tokens from numbers given per row."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from copd.maths.logprobs import draw, masked_log_softmax, token_stats

BANNED = torch.tensor([False, True, False, False, True, False, False])
ALLOWED = [0, 2, 3, 5, 6]
WITHIN = 1e-13
"""In float64: log-probs near 0 are differences of numbers up to 20, so that their own digits are not sure."""


def random_logits(rows: int = 4) -> torch.Tensor:
    return 3 * torch.randn(rows, len(BANNED), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probs_match_scipy_on_the_allowed_tokens(temperature):
    logits_MV = random_logits()
    found_MV = masked_log_softmax(logits_MV, BANNED, temperature=temperature)
    expected = scipy.special.log_softmax(logits_MV.numpy()[:, ALLOWED] / temperature, axis=-1)
    np.testing.assert_allclose(found_MV.numpy()[:, ALLOWED], expected, rtol=0, atol=WITHIN)


def test_banned_tokens_have_no_probability_and_no_influence():
    logits_MV = random_logits()
    loud_MV = logits_MV.masked_fill(BANNED, 1e4)
    found_MV = masked_log_softmax(loud_MV, BANNED, temperature=1.0)
    assert found_MV[:, BANNED].eq(-torch.inf).all()
    torch.testing.assert_close(found_MV, masked_log_softmax(logits_MV, BANNED, temperature=1.0))


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_before_the_softmax(given, computed):
    logits_MV = random_logits().to(given)
    found_MV = masked_log_softmax(logits_MV, BANNED, temperature=0.7)
    assert found_MV.dtype == computed
    torch.testing.assert_close(found_MV, masked_log_softmax(logits_MV.to(computed), BANNED, temperature=0.7))


def test_an_offset_of_the_logits_changes_nothing():
    logits_MV = random_logits()
    torch.testing.assert_close(
        masked_log_softmax(logits_MV + 100, BANNED, temperature=1.0),
        masked_log_softmax(logits_MV, BANNED, temperature=1.0),
    )


def test_token_log_prob_by_hand():
    logits_MV = torch.tensor([[3.0, 1.0, 1.0]], dtype=torch.float64).log()
    none_V = torch.zeros(3, dtype=torch.bool)
    assert token_stats(logits_MV, torch.tensor([0]), none_V, temperature=1.0).logp_M.item() == pytest.approx(
        math.log(0.6)
    )
    assert token_stats(logits_MV, torch.tensor([1]), none_V, temperature=0.5).logp_M.item() == pytest.approx(
        math.log(1 / 11)
    )


def test_token_log_prob_passes_gradcheck_in_float64():
    ids_M = torch.tensor([0, 2, 6, 3])
    logits_MV = random_logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_stats(x, ids_M, BANNED, temperature=0.8).logp_M, (logits_MV,))


def test_entropy_matches_scipy_and_has_no_gradient():
    logits_MV = random_logits().requires_grad_()
    stats = token_stats(logits_MV, torch.zeros(4, dtype=torch.long), BANNED, temperature=1.3)
    expected = scipy.stats.entropy(
        scipy.special.softmax(logits_MV.detach().numpy()[:, ALLOWED] / 1.3, axis=-1), axis=-1
    )
    np.testing.assert_allclose(stats.entropy_M.numpy(), expected, rtol=0, atol=WITHIN)
    assert not stats.entropy_M.requires_grad


def test_uniform_entropy_is_the_log_of_the_number_of_allowed_tokens():
    stats = token_stats(torch.zeros(1, 7), torch.tensor([0]), BANNED, temperature=1.0)
    assert stats.entropy_M.item() == pytest.approx(math.log(5))


def test_top_k_comes_best_first_and_without_banned_tokens():
    logits_MV = torch.tensor([[1.0, 99.0, 5.0, 2.0, 99.0, 4.0, 3.0]])
    stats = token_stats(logits_MV, torch.tensor([0]), BANNED, temperature=1.0, k=3)
    assert stats.topk_ids_MK.tolist() == [[2, 5, 6]]
    expected_M = masked_log_softmax(logits_MV, BANNED, temperature=1.0)[:, [2, 5, 6]]
    assert torch.equal(stats.topk_logp_MK, expected_M)


def test_log_probs_are_given_at_the_ids_asked_about():
    logits_MV, at_ids_MK = random_logits(), torch.tensor([[0, 3], [6, 5], [2, 2], [5, 0]])
    stats = token_stats(logits_MV, torch.tensor([0, 2, 3, 5]), BANNED, temperature=1.0, at_ids_MK=at_ids_MK)
    whole_MV = masked_log_softmax(logits_MV, BANNED, temperature=1.0).tolist()
    assert stats.at_ids_MK.tolist() == [
        [row[i] for i in ids] for row, ids in zip(whole_MV, at_ids_MK.tolist(), strict=True)
    ]


def test_nothing_beyond_log_prob_and_entropy_is_computed_unless_asked_for():
    stats = token_stats(random_logits(), torch.zeros(4, dtype=torch.long), BANNED, temperature=1.0)
    assert (stats.topk_ids_MK, stats.topk_logp_MK, stats.at_ids_MK) == (None, None, None)


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.4999, 0), (0.5001, 1), (0.7499, 1), (0.7501, 3), (0.9999, 3), (1 - 2**-53, 3)],
)
def test_the_token_is_where_the_cumulative_probability_passes_the_number(uniform, token):
    logp_MV = torch.tensor([[0.5, 0.25, 0.0, 0.25, 0.0]], dtype=torch.float64).log()
    assert draw(logp_MV, torch.tensor([0]), torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-24])
def test_tokens_of_probability_zero_are_never_drawn(uniform):
    banned_V = torch.tensor([True, False, True, False, True])
    logp_MV = masked_log_softmax(random_logits(200)[:, :5].float(), banned_V, temperature=1.0)
    assert set(draw(logp_MV, torch.arange(200), torch.full((200,), uniform)).tolist()) <= {1, 3}


def test_tokens_are_drawn_as_often_as_they_are_probable():
    probability_V = torch.tensor([0.125, 0.5, 0.0, 0.25, 0.125], dtype=torch.float64)
    uniform_M = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    ids_M = draw(probability_V.log()[None], torch.zeros(800, dtype=torch.long), uniform_M)
    assert torch.bincount(ids_M, minlength=5).tolist() == [100, 400, 0, 200, 100]


def test_rows_that_leave_the_batch_do_not_move_the_others():
    logp_MV = random_logits(50).log_softmax(-1)
    uniform_M = torch.rand(50, generator=torch.Generator().manual_seed(1))
    kept_M = torch.arange(0, 50, 3)
    whole_M = draw(logp_MV, torch.arange(50), uniform_M)
    assert torch.equal(draw(logp_MV, kept_M, uniform_M[kept_M]), whole_M[kept_M])


def test_a_token_is_drawn_even_where_the_model_gives_no_numbers():
    logp_MV = torch.full((1, 5), torch.nan)
    assert draw(logp_MV, torch.tensor([0]), torch.tensor([0.5], dtype=torch.float64)).tolist() == [4]
