"""Optimizer steps by direct losses of dense OPD, against transformers' own forward without padding."""

import math
from dataclasses import replace

import pytest
import torch

from copd.compute.encode import Responses
from copd.maths.divergences import forward_kl, jensen_shannon, reverse_kl
from copd.maths.logprobs import masked_log_softmax
from copd.model.learner import Learner
from copd.model.objectives import DenseObjective


@pytest.fixture
def mixed(written, policy64, problems_of):
    """Six rows that answer prompts of the three kinds."""
    return written(policy64, [problems_of[kind][2] for kind in problems_of])


def one_step(policy, objective):
    """The gradient that one step took, read from AdamW's first moment (at beta1 = 0 it is the gradient); the report."""
    learner = Learner(policy.clone(), learning_rate=1e-3, betas=(0.0, 0.99), max_grad_norm=math.inf)
    report = learner.step([objective])
    state = learner.state()
    return {name: state.get(f"exp_avg/{name}") for name in learner.named_parameters}, report


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, jensen_shannon])
def test_a_direct_loss_is_the_mean_over_responses_of_the_mean_divergence_of_their_tokens(
    policy64, ending64, mixed, gradients, assert_same, divergence
):
    score = ending64.score(mixed, whole=True)
    found, report = one_step(policy64, DenseObjective("opd", mixed, 0.5, score, divergence))
    allowed = (~policy64.banned_V).nonzero()[:, 0]
    own_MV = whole_logp(policy64, mixed)
    divergence_M = divergence(own_MV[:, allowed], score.whole_MV[:, allowed])
    divergence_NT = torch.zeros(mixed.mask_NT.shape, dtype=torch.float64).masked_scatter(mixed.mask_NT, divergence_M)
    loss = 0.5 * (divergence_NT.sum(-1) / mixed.mask_NT.sum(-1)).mean()
    assert_same(found, gradients(policy64, loss), atol=1e-8)
    assert report.metrics["opd/divergence"] == pytest.approx(float(divergence_M.detach().mean()))
    delta_M = (score.logp_NT - policy64.score(mixed).logp_NT)[mixed.mask_NT]
    assert report.metrics["opd/delta_abs"] == pytest.approx(float(delta_M.abs().mean()))


def whole_logp(policy, rollouts):
    """Differentiable log-probs of all tokens, from transformers' own forward of each row without padding. [M, V]."""
    logp = []
    for n, problem in enumerate(rollouts.prompt_of_N.tolist()):
        tokens = rollouts.tokens_NT[n][rollouts.mask_NT[n]]
        prompt = policy.encoder.encode([rollouts.problems[problem]], policy.device)
        row = Responses(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool), torch.zeros(1).long(), prompt)
        logits = policy.forward.plain(prompt, row, lambda hidden, head: head(hidden))[0]
        logp.append(masked_log_softmax(logits, policy.banned_V, temperature=rollouts.temperature))
    return torch.cat(logp)


def test_a_direct_loss_on_likeliest_tokens_takes_the_students_or_the_teachers(policy64, ending64, mixed, assert_same):
    """With all tokens but the least likely one the bucket holds that one, so that nothing is lost."""
    almost = policy64.allowed_tokens - 1
    whole, _ = one_step(policy64, dense(mixed, ending64.score(mixed, whole=True)))
    teachers, _ = one_step(policy64, dense(mixed, ending64.score(mixed, k=almost)))
    asked = replace(mixed, likeliest_NTK=policy64.score(mixed, k=almost).topk_ids_NTK)
    students, _ = one_step(policy64, dense(asked, ending64.score(asked, ids_NTK=asked.likeliest_NTK)))
    assert_same(teachers, whole, atol=1e-6)
    assert_same(students, whole, atol=1e-6)


def dense(rollouts, score):
    return DenseObjective("opd", rollouts, 1.0, score, reverse_kl)


def test_a_student_like_its_teacher_learns_nothing_from_a_direct_loss(policy64, mixed):
    found, _ = one_step(policy64, dense(mixed, policy64.score(mixed, whole=True)))
    assert max(float(gradient.abs().max()) for gradient in found.values()) < 1e-10


def test_a_direct_loss_in_micro_batches_is_that_of_the_whole_batch(policy64, ending64, mixed, assert_same):
    score, small = ending64.score(mixed, whole=True), policy64.clone()
    small.micro_batch_tokens = 40
    whole, whole_report = one_step(policy64, dense(mixed, score))
    split, split_report = one_step(small, dense(mixed, score))
    assert_same(split, whole, atol=1e-10)
    assert split_report.metrics["opd/divergence"] == pytest.approx(whole_report.metrics["opd/divergence"])


def test_a_teacher_that_is_not_finite_makes_a_direct_loss_skip_the_step(policy64, ending64, mixed):
    score = ending64.score(mixed, whole=True)
    score.whole_MV[3, 5] = torch.nan
    _, report = one_step(policy64, dense(mixed, score))
    assert report.skipped
