"""Equal responses are trained on once, with their number as weight: the same step, computed faster."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.compute.batching import Distinct, take_rows
from copd.maths.distill import clamped_delta, masked_delta, proximal_delta
from copd.model import learner as learner_module
from copd.model.learner import Learner
from copd.model.objectives import (
    AnchoredGrpoObjective,
    DistillObjective,
    GrpoObjective,
    over_constant,
    over_sequences,
    over_tokens,
)

ROWS = [0, 1, 0, 2, 0, 3, 3, 4, 5, 4, 5, 4]
"""Twelve draws of six responses to three prompts."""
ADVANTAGES = (1.5, -0.5, 1.5, 0.0, -0.3, 0.7, 0.7, -2.0, 0.0, -2.0, 0.0, 1.0)
"""One for each draw; a grader has judged the fifth and the last otherwise than their equals."""
TOKENS, DISTINCT = 51, 8
AGGREGATIONS = {
    "sequence": over_sequences,
    "token": over_tokens,
    "constant": partial(over_constant, max_new_tokens=36),
}
DELTAS = {
    "clamp": partial(clamped_delta, bound=2.0),
    "mask": partial(masked_delta, bound=2.0),
    "proximal": partial(proximal_delta, teacher_share=0.9),
}


def as_drawn(rollouts):
    """The draws of the responses; in the padding stands anything."""
    drawn = take_rows(rollouts, torch.tensor(ROWS))
    anything_NT = torch.randint(90, drawn.tokens_NT.shape, generator=torch.Generator().manual_seed(3))
    return replace(drawn, tokens_NT=torch.where(drawn.mask_NT, drawn.tokens_NT, anything_NT))


@pytest.fixture(params=["float32", "float64"])
def student(request, policy, policy64):
    return {"float32": policy, "float64": policy64}[request.param]


@pytest.fixture
def rollouts(written, policy64, problems_of):
    responses = written(policy64, problems_of["text"])
    sampled_NT = policy64.score(responses).logp_NT + torch.linspace(-0.3, 0.3, 42).view(6, 7)
    return as_drawn(replace(responses, logp_NT=sampled_NT))


@pytest.fixture
def other_NT(policy64, rollouts):
    """Log-probs of another policy, equal for equal responses, so far off that every bound acts."""
    gap_NT = torch.linspace(-4, 4, 42, dtype=torch.float64).view(6, 7)[torch.tensor(ROWS)]
    return policy64.score(rollouts).logp_NT + gap_NT


def native(rollouts, advantages=ADVANTAGES):
    return GrpoObjective("native", rollouts, 1.0, torch.tensor(advantages, dtype=torch.float64))


def held(rollouts, reference_NT):
    advantage_N = torch.tensor(ADVANTAGES, dtype=torch.float64)
    return AnchoredGrpoObjective("held", rollouts, 0.5, advantage_N, reference_NT / 4, 0.3)


def distilled(rollouts, teacher_NT):
    return [DistillObjective(name, rollouts, 0.5, teacher_NT, delta) for name, delta in DELTAS.items()]


def one_step(policy, objectives, packing=False, **options):
    """The gradient of the last iteration (AdamW's first moment at beta1 = 0), the report, and the rows of each forward;
    one where they are packed."""
    learner = Learner(
        policy.clone(), **{"learning_rate": 1e-3, "betas": (0.0, 0.99), "max_grad_norm": math.inf} | options
    )
    rows = []
    learner.policy.packing = packing
    learner.policy.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, hidden: rows.append(len(hidden[0]))
    )
    report = learner.step(objectives)
    state = learner.state()
    return {name: state[f"exp_avg/{name}"] for name in learner.named_parameters}, report, rows


def every_row(rollouts, rows_M, key_N=None):
    """In the place of `distinct_rows`: nothing is merged."""
    return Distinct(rows_M, torch.ones_like(rows_M), torch.arange(len(rows_M)))


def assert_merging_changes_nothing(monkeypatch, assert_same, policy, objectives, **options):
    """The gradient within 1e-10 of its greatest entry, in float32 4e-6: float32's own rounding here."""
    within = 1e-10 if policy.model.dtype == torch.float64 else 4e-6
    gradient, report, rows = one_step(policy, objectives, **options)
    monkeypatch.setattr(learner_module, "distinct_rows", every_row)
    expected, expected_report, expected_rows = one_step(policy, objectives, **options)
    assert sum(rows) < sum(expected_rows)
    assert expected_report.metrics["grad_norm"] > 1e-3
    greatest = max(float(g.abs().max()) for g in expected.values())
    assert_same(gradient, expected, atol=within * greatest)
    assert report.metrics == pytest.approx(expected_report.metrics, abs=within, rel=within)
    assert report.tokens_trained == expected_report.tokens_trained


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_gradient_and_metrics_are_those_of_every_row_computed(
    student, rollouts, other_NT, assert_same, monkeypatch, name
):
    parts = [native(rollouts), held(rollouts, other_NT), *distilled(rollouts, other_NT)]
    assert_merging_changes_nothing(monkeypatch, assert_same, student, parts, aggregate=AGGREGATIONS[name])


def test_all_shortcuts_together_give_the_gradient_of_none(policy64, rollouts, other_NT, assert_same, monkeypatch):
    """Packed prefixes, equal rows as one and rows without signal left out, against all rows on the plain path."""
    parts, plain = [native(rollouts), *distilled(rollouts, other_NT)], policy64.clone()
    gradient, report, _ = one_step(policy64, parts, packing=True)
    plain.shared_prefix = False
    monkeypatch.setattr(learner_module, "distinct_rows", every_row)
    monkeypatch.setattr(GrpoObjective, "rows_with_gradient", DistillObjective.rows_with_gradient)
    expected, _, rows = one_step(plain, parts)
    assert rows == [len(ROWS)] * len(parts)
    assert_same(gradient, expected, atol=1e-10)
    assert report.tokens_trained < TOKENS * len(parts)


@pytest.mark.parametrize("part", ["native", "held", "distilled"])
def test_every_later_pass_is_that_of_every_row_computed(policy64, rollouts, other_NT, assert_same, monkeypatch, part):
    parts = {
        "native": [native(rollouts)],
        "held": [held(rollouts, other_NT)],
        "distilled": distilled(rollouts, other_NT),
    }[part]
    assert_merging_changes_nothing(monkeypatch, assert_same, policy64, parts, iterations=3)


@pytest.mark.parametrize("budget", [1, 80])
def test_the_weight_of_a_row_goes_with_it_into_its_micro_batch(
    policy64, rollouts, other_NT, assert_same, monkeypatch, budget
):
    small = policy64.clone()
    small.micro_batch_tokens = budget
    parts = [native(rollouts), *distilled(rollouts, other_NT)]
    assert_merging_changes_nothing(monkeypatch, assert_same, small, parts)


def test_each_response_is_computed_once_and_every_draw_of_it_is_counted(policy64, rollouts, other_NT):
    assert int(rollouts.mask_NT.sum()) == TOKENS
    _, report, rows = one_step(policy64, [held(rollouts, other_NT)])
    assert rows == [DISTINCT]
    assert report.tokens_trained == TOKENS
    _, report, rows = one_step(policy64, [distilled(rollouts, other_NT)[0]])
    assert rows == [len(set(ROWS))]
    assert report.tokens_trained == TOKENS


def test_equal_responses_that_were_judged_differently_are_not_one(policy64, rollouts):
    """Two equal responses with opposite advantages have no gradient together, and half of it where one is judged 0."""
    opposite = take_rows(rollouts, torch.tensor([0, 2]))
    alone = take_rows(rollouts, torch.tensor([0]))
    gradient, _, rows = one_step(policy64, [native(opposite, (1.0, -1.0))])
    assert rows == [2]
    assert max(float(g.abs().max()) for g in gradient.values()) < 1e-12
    _, half, rows = one_step(policy64, [native(opposite, (1.0, 0.0))])
    _, whole, _ = one_step(policy64, [native(alone, (1.0,))])
    assert half.metrics["grad_norm"] == pytest.approx(whole.metrics["grad_norm"] / 2)
    assert rows == [1]


def test_metrics_are_means_over_the_tokens_of_all_draws(policy64, rollouts):
    """Against the mean over all rows of log-probs and entropies computed row by row."""
    stats = policy64.token_stats(rollouts)
    _, report, _ = one_step(policy64, [native(rollouts, (1.0,) * 12)])
    mismatch_M = (stats.logp_M.detach() - rollouts.logp_NT[rollouts.mask_NT]).abs()
    assert report.metrics["native/entropy"] == pytest.approx(float(stats.entropy_M.mean()), abs=1e-10)
    assert report.metrics["native/logp_mismatch"] == pytest.approx(float(mismatch_M.mean()), abs=1e-10)
