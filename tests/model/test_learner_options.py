"""What the optimizer step may vary: aggregation, a KL to a reference, bounds of the delta, several passes."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.errors import NonFiniteError
from copd.maths.distill import clamped_delta, masked_delta, proximal_delta
from copd.model.learner import MAX_SKIPPED_IN_A_ROW, Learner
from copd.model.objectives import (
    AnchoredGrpoObjective,
    DistillObjective,
    GrpoObjective,
    over_constant,
    over_sequences,
    over_tokens,
)

ADVANTAGE_N = torch.tensor((1.5, -0.5, 0.0, 0.7, -2.0, 0.0), dtype=torch.float64)
LENGTH_N = torch.tensor((5, 3, 7, 1, 4, 6), dtype=torch.float64)
"""The responses of the fixture `written`; two of them without a signal."""
AGGREGATIONS = {
    "sequence": (over_sequences, 1 / (6 * LENGTH_N)),
    "token": (over_tokens, 1 / LENGTH_N.sum()),
    "constant": (partial(over_constant, max_new_tokens=36), torch.tensor(1 / (6 * 36))),
}
"""By name: the aggregation, and what one token of each response weighs in it."""
DELTAS = {
    "clamp": partial(clamped_delta, bound=2.0),
    "mask": partial(masked_delta, bound=2.0),
    "proximal": partial(proximal_delta, teacher_share=0.9),
}
KL = 0.3
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
LARGE_RATE = 1e-2


def make_learner(policy, **options):
    """At beta1 = 0 AdamW's first moment is the gradient of the last pass."""
    return Learner(policy.clone(), **{"learning_rate": 1e-3, "betas": (0.0, 0.99), "max_grad_norm": math.inf} | options)


def gradient_of(learner):
    state = learner.state()
    return {name: state[f"exp_avg/{name}"] for name in learner.named_parameters}


def native(rollouts, advantage_N=ADVANTAGE_N):
    return GrpoObjective("native", rollouts, 1.0, advantage_N)


def anchored(rollouts, reference_NT, advantage_N=ADVANTAGE_N, weight=1.0):
    return AnchoredGrpoObjective("native", rollouts, weight, advantage_N, reference_NT, KL)


def weights_after_each_pass(learner):
    """A list that grows by the weights after every optimizer step."""
    seen = []

    def note(*_):
        seen.append({name: p.detach().clone() for name, p in learner.named_parameters.items()})

    learner.optimizer.register_step_post_hook(note)
    return seen


def with_weights(policy, weights):
    twin = policy.clone()
    twin.load_weights(weights)
    return twin


def surrogate(logp_NT, old_NT, advantage_NT):
    """Equation 2 token by token, by cases."""
    ratio_NT = (logp_NT - old_NT).exp()
    capped_NT = torch.where(advantage_NT > 0, ratio_NT.clamp(max=1.28), ratio_NT.clamp(min=0.8))
    return advantage_NT * capped_NT


@pytest.fixture
def rollouts(written, policy64, problems_of):
    return written(policy64, problems_of["text"])


@pytest.fixture
def reference_NT(ending64, rollouts):
    """Log-probs of another policy than the one that is trained."""
    return ending64.score(rollouts).logp_NT


@pytest.fixture
def teacher_NT(policy64, rollouts):
    """A teacher whose deltas go from -4 to 4, so that every bound acts."""
    spread_NT = torch.linspace(-4, 4, rollouts.tokens_NT.numel(), dtype=torch.float64).view(6, -1)
    return policy64.score(rollouts).logp_NT + spread_NT


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_gradient_is_that_of_the_weighted_sum_over_tokens(policy64, rollouts, gradients, assert_same, name):
    """The responses without a signal are left out of the passes and still count in every denominator."""
    aggregate, weight_N = AGGREGATIONS[name]
    learner = make_learner(policy64, aggregate=aggregate)
    report = learner.step([native(rollouts)])
    objective = (policy64.logp(rollouts).sum(-1) * ADVANTAGE_N * weight_N).sum()
    assert_same(gradient_of(learner), gradients(policy64, -objective), atol=1e-8)
    assert report.metrics["grad_norm"] > 1e-3
    assert report.tokens_trained == 26 - 7 - 6


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_kl_is_taken_off_with_the_surrogates_own_denominator(
    policy64, rollouts, reference_NT, gradients, assert_same, name
):
    aggregate, weight_N = AGGREGATIONS[name]
    learner = make_learner(policy64, aggregate=aggregate)
    report = learner.step([anchored(rollouts, reference_NT, weight=0.5)])
    logp_NT = policy64.logp(rollouts)
    gap_NT = reference_NT - logp_NT
    kl_NT = torch.where(rollouts.mask_NT, gap_NT.exp() - gap_NT - 1, 0.0)
    objective = 0.5 * ((logp_NT.sum(-1) * ADVANTAGE_N - KL * kl_NT.sum(-1)) * weight_N).sum()
    assert_same(gradient_of(learner), gradients(policy64, -objective), atol=1e-8)
    assert report.metrics["native/kl"] == pytest.approx(float(kl_NT.detach().sum()) / 26)


def test_rows_without_a_signal_have_a_gradient_and_are_not_skipped_where_there_is_a_kl(
    policy64, rollouts, reference_NT
):
    nothing_N = torch.zeros(6, dtype=torch.float64)
    report = make_learner(policy64).step([anchored(rollouts, reference_NT, nothing_N)])
    assert report.metrics["grad_norm"] > 1e-3
    assert report.tokens_trained == 26
    assert make_learner(policy64).step([native(rollouts, nothing_N)]).metrics["grad_norm"] == 0.0


def all_parts(rollouts, reference_NT, teacher_NT, *, held):
    """Native RLVR with or without a KL, and a part of mutual OPD under each bound."""
    own = anchored(rollouts, reference_NT) if held else native(rollouts)
    return [own, *(DistillObjective(name, rollouts, 0.5, teacher_NT, delta) for name, delta in DELTAS.items())]


def reordered(rollouts, order_N):
    names = ("tokens_NT", "mask_NT", "finished_N", "logp_NT", "prompt_of_N")
    return replace(rollouts, **{name: getattr(rollouts, name)[order_N] for name in names})


FAST = dict(zip(AGGREGATIONS, (True, False, True), strict=True))
"""With or without a KL, by aggregation: what the fast tests try of all six."""


@pytest.mark.parametrize("iterations", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "held"),
    [
        pytest.param(name, held, marks=[] if held is FAST[name] else pytest.mark.slow)
        for name in AGGREGATIONS
        for held in (True, False)
    ],
)
def test_neither_the_token_budget_nor_the_order_of_the_rows_matters(
    policy64, rollouts, reference_NT, teacher_NT, assert_same, name, held, iterations
):
    options = {"aggregate": AGGREGATIONS[name][0], "iterations": iterations}
    whole = make_learner(policy64, **options)
    expected = whole.step(all_parts(rollouts, reference_NT, teacher_NT, held=held))
    small = policy64.clone()
    small.micro_batch_tokens = 1
    split = make_learner(small, **options)
    order_N = torch.tensor([4, 0, 5, 2, 1, 3])
    parts = all_parts(reordered(rollouts, order_N), reference_NT[order_N], teacher_NT[order_N], held=held)
    parts[0] = replace(parts[0], advantage_N=ADVANTAGE_N[order_N])
    found = split.step(parts)
    assert_same(gradient_of(split), gradient_of(whole), atol=1e-8)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-6)
    assert found.tokens_trained == expected.tokens_trained


def test_the_first_of_several_passes_is_exactly_a_step_of_one_pass(policy64, rollouts, teacher_NT, assert_same):
    parts = [native(rollouts), DistillObjective("opd", rollouts, 1.0, teacher_NT, DELTAS["clamp"])]
    twice, once = make_learner(policy64, iterations=2), make_learner(policy64)
    weights = weights_after_each_pass(twice)
    twice.step(parts)
    once.step(parts)
    assert len(weights) == 2
    assert_same(weights[0], {name: p.detach() for name, p in once.named_parameters.items()})
    assert any(bool((weights[1][name] != tensor).any()) for name, tensor in weights[0].items())


def test_later_passes_clip_ratios_to_the_log_probs_of_the_first(policy64, rollouts, gradients, assert_same):
    """The gradient of the third pass against equation 2 at the weights after the second."""
    learner = make_learner(policy64, iterations=3, learning_rate=LARGE_RATE)
    weights = weights_after_each_pass(learner)
    report = learner.step([native(rollouts)])
    old_NT = policy64.score(rollouts).logp_NT
    rates = [0.0]
    for before in weights[:2]:
        twin = with_weights(policy64, before)
        per_token_NT = surrogate(twin.logp(rollouts), old_NT, ADVANTAGE_N[:, None])
        log_ratio_NT = twin.score(rollouts).logp_NT - old_NT
        clipped_NT = torch.where(ADVANTAGE_N[:, None] > 0, log_ratio_NT.exp() > 1.28, log_ratio_NT.exp() < 0.8)
        present_NT = rollouts.mask_NT & (ADVANTAGE_N[:, None] != 0)
        rates.append(float(clipped_NT[present_NT].double().mean()))
    objective = torch.where(rollouts.mask_NT, per_token_NT, 0.0).sum(-1) / (6 * LENGTH_N)
    assert_same(gradient_of(learner), gradients(twin, -objective.sum()), atol=1e-7)
    assert min(rates[1:]) > 0
    assert report.metrics["native/clip_rate"] == pytest.approx(sum(rates) / 3)


def test_with_one_pass_nothing_is_clipped_however_large_the_rate(policy64, rollouts):
    learner = make_learner(policy64, learning_rate=LARGE_RATE)
    for _ in range(2):
        assert learner.step([native(rollouts)]).metrics["native/clip_rate"] == 0.0


def test_later_passes_keep_the_deltas_of_the_first(policy64, rollouts, teacher_NT, gradients, assert_same):
    learner = make_learner(policy64, iterations=2, learning_rate=LARGE_RATE)
    weights = weights_after_each_pass(learner)
    report = learner.step([DistillObjective("opd", rollouts, 1.0, teacher_NT, DELTAS["clamp"])])
    old_NT = policy64.score(rollouts).logp_NT
    delta_NT = (teacher_NT - old_NT).clamp(-2, 2)
    twin = with_weights(policy64, weights[0])
    per_token_NT = surrogate(twin.logp(rollouts), old_NT, delta_NT)
    objective = torch.where(rollouts.mask_NT, per_token_NT, 0.0).sum(-1) / (6 * LENGTH_N)
    assert_same(gradient_of(learner), gradients(twin, -objective.sum()), atol=1e-7)
    assert report.metrics["opd/delta"] == pytest.approx(float(delta_NT[rollouts.mask_NT].mean()))
    assert report.metrics["opd/clip_rate"] > 0


def test_the_kl_of_a_later_pass_is_that_of_the_weights_then(policy64, rollouts, reference_NT):
    learner = make_learner(policy64, iterations=2)
    weights = weights_after_each_pass(learner)
    report = learner.step([anchored(rollouts, reference_NT)])
    kls = []
    for each in (policy64, with_weights(policy64, weights[0])):
        gap_M = (reference_NT - each.score(rollouts).logp_NT)[rollouts.mask_NT]
        kls.append(float((gap_M.exp() - gap_M - 1).mean()))
    assert kls[0] != pytest.approx(kls[1], rel=1e-2)
    assert report.metrics["native/kl"] == pytest.approx(sum(kls) / 2)


@pytest.mark.parametrize("iterations", [1, 3])
def test_tokens_are_counted_for_every_pass(policy64, rollouts, iterations):
    assert make_learner(policy64, iterations=iterations).step([native(rollouts)]).tokens_trained == iterations * 13


def diverging(policy):
    """A learner whose first pass is sound and leads to weights at which nothing is finite any more."""
    return make_learner(policy, iterations=3, learning_rate=1e30)


def test_a_later_pass_that_is_not_finite_changes_nothing_and_ends_the_step(policy, rollouts, assert_same):
    learner, once = diverging(policy), make_learner(policy, learning_rate=1e30)
    weights = weights_after_each_pass(learner)
    report = learner.step([native(rollouts)])
    once.step([native(rollouts)])
    assert report.skipped
    assert len(weights) == 1
    assert report.tokens_trained == 2 * 13
    after, before = learner.state(), once.state()
    assert (after.pop("skipped_in_a_row"), before.pop("skipped_in_a_row")) == (1, 0)
    assert_same(after, before)
    assert all(parameter.grad is None for parameter in learner.named_parameters.values())


def test_steps_whose_first_pass_is_sound_and_whose_second_is_not_are_an_error_in_the_end(policy, rollouts):
    learner = diverging(policy)
    start = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        assert learner.step([native(rollouts)]).skipped
        learner.policy.load_weights(start)
    with pytest.raises(NonFiniteError, match=f"{MAX_SKIPPED_IN_A_ROW} optimizer steps"):
        learner.step([native(rollouts)])


def test_a_state_taken_between_steps_of_several_passes_goes_on_bit_identically(policy, rollouts, assert_same):
    learner, twin = (make_learner(policy, iterations=2) for _ in range(2))
    learner.step([native(rollouts)])
    twin.load_state({name: tensor.clone() for name, tensor in learner.state().items()})
    assert learner.step([native(rollouts)]) == twin.step([native(rollouts)])
    assert_same(twin.state(), learner.state())
