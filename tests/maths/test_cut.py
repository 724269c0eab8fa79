"""Cutting a distribution: values by hand, transformers' own processors, and the frequencies of draws."""

from itertools import product

import pytest
import torch
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from copd.maths.cut import WHOLE, Cut, remaining
from copd.maths.importance import importance_weights
from copd.maths.logprobs import draw, masked_log_softmax

P_V = (0.05, 0.4, 0.2, 0.25, 0.1)
CUTS = [Cut(*each) for each in product((1.0, 0.9, 0.5, 0.01), (None, 1, 4, 99), (0.0, 0.1, 0.6)) if each != WHOLE]


def logp(*p_V):
    return torch.tensor([p_V], dtype=torch.float64).log()


def random_logp(rows=6, vocabulary=40):
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (Cut(top_k=2), (0, 0.4 / 0.65, 0, 0.25 / 0.65, 0)),
        (Cut(top_k=9), P_V),
        (Cut(top_p=0.3), (0, 1, 0, 0, 0)),
        (Cut(top_p=0.5), (0, 0.4 / 0.65, 0, 0.25 / 0.65, 0)),
        (Cut(top_p=0.86), (0, 0.4 / 0.95, 0.2 / 0.95, 0.25 / 0.95, 0.1 / 0.95)),
        (Cut(min_p=0.45), (0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0)),
        (Cut(min_p=0.99), (0, 1, 0, 0, 0)),
        (Cut(top_p=0.6, top_k=2), (0, 1, 0, 0, 0)),  # 0.4 of the 0.65 that top_k leaves are more than 0.6
    ],
)
def test_what_is_left_by_hand(cut, expected):
    assert remaining(logp(*P_V), cut).exp()[0].tolist() == pytest.approx(expected)


def test_with_the_defaults_not_one_bit_is_changed():
    logp_MV = random_logp()
    assert remaining(logp_MV, Cut()) is logp_MV


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_left_is_what_the_processors_of_transformers_leave(cut):
    logp_MV = expected_MV = random_logp()
    if cut.min_p:
        expected_MV = MinPLogitsWarper(cut.min_p)(None, expected_MV)
    if cut.top_k:
        expected_MV = TopKLogitsWarper(cut.top_k)(None, expected_MV)
    if cut.top_p < 1:
        expected_MV = TopPLogitsWarper(cut.top_p)(None, expected_MV)
    torch.testing.assert_close(remaining(logp_MV, cut), expected_MV.log_softmax(-1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cut", [Cut(top_k=1), Cut(top_p=0.3), Cut(top_p=0.3, top_k=2), Cut(min_p=1 - 1e-9)])
def test_tokens_as_likely_as_the_last_that_is_left_are_left_too(cut):
    found_MV = remaining(logp(0.1, 0.4, 0.1, 0.4), cut)
    assert found_MV.exp()[0].tolist() == pytest.approx([0, 0.5, 0, 0.5])


@pytest.mark.parametrize("cut", CUTS)
def test_a_banned_token_stays_banned_and_a_row_of_nan_stays_one(cut):
    banned_V = torch.tensor([False, True] * 20)
    found_MV = remaining(masked_log_softmax(random_logp(), banned_V, temperature=1.0), cut)
    assert found_MV[:, banned_V].eq(-torch.inf).all()
    assert found_MV.exp().sum(-1).tolist() == pytest.approx([1.0] * 6)
    assert remaining(torch.full((1, 5), torch.nan), cut).isnan().all()


@pytest.mark.parametrize("cut", CUTS)
def test_draws_come_as_often_as_the_distribution_says_and_never_from_what_is_cut(cut):
    """Over numbers at equal distances the share of a token is off by less than one draw in them."""
    logp_MV, draws = random_logp(2, 6), 5000
    left_MV = remaining(logp_MV, cut)
    uniform_R = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    for row in range(2):
        token_R = draw(left_MV, torch.full((draws,), row), uniform_R)
        share_V = torch.bincount(token_R, minlength=6) / draws
        assert share_V[left_MV[row].isneginf()].eq(0).all()
        assert share_V.tolist() == pytest.approx(left_MV[row].exp().tolist(), abs=1.01 / draws)


@pytest.mark.parametrize("cut", CUTS)
def test_weighted_means_over_what_is_left_are_the_trainers_over_the_same_tokens(cut):
    whole_MV = random_logp()
    left_MV, value_MV = remaining(whole_MV, cut), torch.arange(40, dtype=torch.float64).expand(6, -1)
    kept_MV = left_MV.isfinite()
    weight_MV = torch.where(kept_MV, importance_weights(whole_MV, left_MV, cap=1.0), 0.0)
    found_M = (left_MV.exp() * weight_MV * value_MV).sum(-1)
    torch.testing.assert_close(found_M, torch.where(kept_MV, whole_MV.exp() * value_MV, 0.0).sum(-1))
    share_M1 = torch.where(kept_MV, whole_MV.exp(), 0.0).sum(-1, keepdim=True)
    torch.testing.assert_close(weight_MV[kept_MV], share_M1.expand_as(weight_MV)[kept_MV])
