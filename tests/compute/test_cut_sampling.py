"""Sampling from a cut distribution in both loops: what is drawn, with which log-probs, and what greedy answers are."""

from unittest.mock import patch

import pytest
import torch

from copd.maths.cut import WHOLE, Cut, remaining

NEW_TOKENS = 8
CUTS = [Cut(top_k=3), Cut(top_p=0.6), Cut(min_p=0.3), Cut(top_p=0.9, top_k=20, min_p=0.01)]


def sampled(policy, problems, cut, *, card=False, rows=3, seed=0, tokens=NEW_TOKENS, temperature=1.0):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    options = {"rollouts_per_prompt": rows, "max_new_tokens": tokens, "temperature": temperature, "cut": cut}
    with patch("copd.model.builtin_sampler.refills", lambda device: card):
        return policy.sample(problems, generator=generator, **options)


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_log_probs_are_those_of_what_is_left_of_the_trainers_distribution(ending64, problems_of, cut, card):
    rollouts = sampled(ending64, problems_of["text"], cut, card=card, temperature=0.8)
    whole_MV = ending64.score(rollouts, whole=True).whole_MV
    mask_NT = rollouts.mask_NT
    expected_M = remaining(whole_MV, cut).gather(-1, rollouts.tokens_NT[mask_NT][:, None])[:, 0]
    torch.testing.assert_close(rollouts.logp_NT[mask_NT].double(), expected_M.double(), atol=1e-5, rtol=0)
    assert expected_M.isfinite().all(), "nothing that is cut is sampled"
    assert rollouts.cut
    assert (rollouts.logp_NT > ending64.score(rollouts).logp_NT + 1e-3).any(), "something has to be cut"


@pytest.mark.parametrize("cut", CUTS)
def test_both_loops_give_the_same_answers(ending64, problems_of, cut):
    here, there = (sampled(ending64, problems_of["text"], cut, card=card) for card in (False, True))
    assert torch.equal(here.tokens_NT, there.tokens_NT)
    torch.testing.assert_close(here.logp_NT, there.logp_NT, atol=1e-6, rtol=0)


@pytest.mark.parametrize("card", [False, True])
def test_only_as_many_first_tokens_as_top_k_are_ever_drawn_as_often_as_they_are_likely(policy, problems_of, card):
    rows = 600
    rollouts = sampled(policy, problems_of["text"][:1], Cut(top_k=4), card=card, rows=rows, tokens=1)
    whole_V = policy.score(rollouts, whole=True).whole_MV[0]
    likeliest = whole_V.topk(4)
    shares = [float((rollouts.tokens_NT == token).float().mean()) for token in likeliest.indices]
    assert sum(shares) == pytest.approx(1.0)
    expected = likeliest.values.softmax(-1).tolist()
    assert shares == pytest.approx(expected, abs=4 * (0.25 / rows) ** 0.5)


@pytest.mark.parametrize("card", [False, True])
def test_a_greedy_answer_and_its_log_probs_know_no_cut(ending, problems_of, card):
    whole, cut = (sampled(ending, problems_of["text"], each, card=card, seed=None) for each in (WHOLE, CUTS[0]))
    assert torch.equal(whole.tokens_NT, cut.tokens_NT)
    assert torch.equal(whole.logp_NT, cut.logp_NT)
    assert not cut.cut
