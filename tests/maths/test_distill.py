"""The distillation signal and the measures of behaviour, against scipy, torch.distributions and naive loops."""

import math
from functools import partial

import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, kl_divergence

from copd.maths.distill import (
    clamped_delta,
    masked_delta,
    mass_overlap,
    proximal_delta,
    sampled_delta,
    symmetric_kl,
    top_k_overlap,
    with_tail,
)

DELTAS = {
    "sampled": sampled_delta,
    "clamped": partial(clamped_delta, bound=5.0),
    "masked": partial(masked_delta, bound=5.0),
    "proximal": partial(proximal_delta, teacher_share=0.9),
    "proximal, mostly the student": partial(proximal_delta, teacher_share=0.2),
    "proximal, teacher alone": partial(proximal_delta, teacher_share=1.0),
}
QUARTER_LOG_3 = 0.27465307216702745


def random_logp(seed: int, rows: int = 5, tokens: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, tokens, generator=generator, dtype=torch.float64)).log_softmax(-1)


def random_top_k(seed: int, rows: int, tokens: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tokens, generator=generator)[:k] for _ in range(rows)])


@pytest.fixture(params=DELTAS)
def delta(request):
    return DELTAS[request.param]


@pytest.mark.parametrize(
    ("student", "teacher", "sampled", "clamped", "masked"),
    [
        (-1.0, -0.5, 0.5, 0.5, 0.5),
        (-0.5, -1.0, -0.5, -0.5, -0.5),
        (-9.0, -1.0, 8.0, 5.0, 0.0),
        (-1.0, -9.0, -8.0, -5.0, 0.0),
        (-2.0, -2.0, 0.0, 0.0, 0.0),
        (-6.0, -1.0, 5.0, 5.0, 5.0),
        (-1.0, -6.0, -5.0, -5.0, -5.0),
    ],
)
def test_delta_is_teacher_minus_student_within_its_bound(student, teacher, sampled, clamped, masked):
    given = torch.tensor([[student]]), torch.tensor([[teacher]])
    assert sampled_delta(*given).item() == sampled
    assert clamped_delta(*given, bound=5.0).item() == clamped
    assert masked_delta(*given, bound=5.0).item() == masked


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_the_proximal_delta_is_the_delta_to_a_mixture_of_teacher_and_student(share):
    student_NT, teacher_NT = random_logp(0), random_logp(1)
    target_NT = share * teacher_NT.exp() + (1 - share) * student_NT.exp()
    found_NT = proximal_delta(student_NT, teacher_NT, teacher_share=share)
    torch.testing.assert_close(found_NT, target_NT.log() - student_NT)


def test_the_proximal_delta_by_hand():
    given = torch.tensor([0.25], dtype=torch.float64).log(), torch.tensor([0.75], dtype=torch.float64).log()
    assert proximal_delta(*given, teacher_share=0.5).item() == pytest.approx(math.log(2.0))
    assert proximal_delta(*reversed(given), teacher_share=0.5).item() == pytest.approx(math.log(2 / 3))


def test_the_proximal_delta_is_never_below_log_of_one_minus_a_and_never_overflows():
    student_NT = torch.tensor([[-1.0, -1.0, -200.0, 0.0]])
    teacher_NT = torch.tensor([[-math.inf, -500.0, 0.0, -1e-3]])
    found_NT = proximal_delta(student_NT, teacher_NT, teacher_share=0.9)
    low = math.log(0.1)
    assert found_NT.tolist() == [pytest.approx([low, low, 200 + math.log(0.9), -0.9e-3], rel=1e-3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_teacher_equal_to_student_gives_exactly_zero_delta(delta, dtype):
    logp_NT = random_logp(0, rows=40).to(dtype)
    assert delta(logp_NT, logp_NT.clone()).eq(0).all()


def test_an_impossible_token_for_the_teacher_is_bounded():
    given = torch.tensor([[-1.0]]), torch.tensor([[-math.inf]])
    assert clamped_delta(*given, bound=3.0).item() == -3.0
    assert masked_delta(*given, bound=3.0).item() == 0.0


def test_a_log_prob_that_is_not_a_number_stays_one(delta):
    assert delta(torch.tensor([[-1.0]]), torch.tensor([[math.nan]])).isnan().all()


def test_no_gradient_flows_through_the_delta(delta):
    student_NT = random_logp(0).requires_grad_()
    teacher_NT = random_logp(1).requires_grad_()
    assert not delta(student_NT, teacher_NT).requires_grad


def test_expected_policy_gradient_of_the_delta_is_minus_the_gradient_of_the_reverse_kl():
    logits_V = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    teacher = Categorical(logits=torch.tensor([1.0, 0.2, -0.4, 0.0], dtype=torch.float64))
    (kl_V,) = torch.autograd.grad(kl_divergence(Categorical(logits=logits_V), teacher), logits_V)
    logp_V = logits_V.log_softmax(-1)
    for delta_V in (sampled_delta(logp_V, teacher.logits), clamped_delta(logp_V, teacher.logits, bound=50.0)):
        (policy_V,) = torch.autograd.grad((logp_V.detach().exp() * delta_V * logp_V).sum(), logits_V, retain_graph=True)
        torch.testing.assert_close(policy_V, -kl_V)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_expected_policy_gradient_of_the_proximal_delta_is_that_of_the_kl_to_the_mixture_held_fixed(share):
    logits_V = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    teacher_V = torch.tensor([1.0, 0.2, -0.4, 0.0], dtype=torch.float64).log_softmax(-1)
    target = Categorical(probs=share * teacher_V.exp() + (1 - share) * logits_V.detach().softmax(-1))
    (kl_V,) = torch.autograd.grad(kl_divergence(Categorical(logits=logits_V), target), logits_V)
    logp_V = logits_V.log_softmax(-1)
    delta_V = proximal_delta(logp_V, teacher_V, teacher_share=share)
    (policy_V,) = torch.autograd.grad((logp_V.detach().exp() * delta_V * logp_V).sum(), logits_V)
    torch.testing.assert_close(policy_V, -kl_V)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], 1.0),
        ([1, 2, 3, 4], [3, 4, 5, 6], 0.5),
        ([1, 2, 3, 4], [5, 6, 7, 1], 0.25),
        ([1, 2, 3, 4], [5, 6, 7, 8], 0.0),
        ([9], [9], 1.0),
    ],
)
def test_overlap_is_the_share_of_common_tokens(student, teacher, expected):
    assert top_k_overlap(torch.tensor([student]), torch.tensor([teacher])).tolist() == [expected]


def test_overlap_matches_sets():
    student_MK, teacher_MK = random_top_k(0, 30, 12, 4), random_top_k(1, 30, 12, 4)
    sets = [len(set(s) & set(t)) / 4 for s, t in zip(student_MK.tolist(), teacher_MK.tolist(), strict=True)]
    assert top_k_overlap(student_MK, teacher_MK).tolist() == sets


def test_unrelated_policies_overlap_by_chance_in_k_of_v_tokens():
    overlap_M = top_k_overlap(random_top_k(0, 2000, 20, 5), random_top_k(1, 2000, 20, 5))
    assert overlap_M.mean().item() == pytest.approx(5 / 20, abs=0.02)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [([0, 1], 1.0), ([1, 0], 1.0), ([1, 5], 1 / 3), ([7, 0], 2 / 3), ([8, 9], 0.0)],
)
def test_mass_overlap_weighs_common_tokens_by_the_students_probability(teacher, expected):
    logp_MK = torch.tensor([[0.6, 0.3]], dtype=torch.float64).log()
    found_M = mass_overlap(torch.tensor([[0, 1]]), logp_MK, torch.tensor([teacher]))
    assert found_M.item() == pytest.approx(expected)


def test_symmetric_kl_by_hand():
    found_M = symmetric_kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    assert found_M.item() == pytest.approx(QUARTER_LOG_3)


def test_symmetric_kl_matches_scipy_and_torch_distributions():
    p_MV, q_MV = random_logp(0), random_logp(1)
    scipys = [
        scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p) for p, q in zip(p_MV.exp(), q_MV.exp(), strict=True)
    ]
    p, q = Categorical(logits=p_MV), Categorical(logits=q_MV)
    found_M = symmetric_kl(p_MV, q_MV)
    assert found_M.tolist() == pytest.approx(scipys)
    torch.testing.assert_close(found_M, kl_divergence(p, q) + kl_divergence(q, p))


def test_symmetric_kl_is_symmetric_and_zero_only_for_equals():
    p_MV, q_MV = random_logp(0), random_logp(1)
    assert torch.equal(symmetric_kl(p_MV, q_MV), symmetric_kl(q_MV, p_MV))
    assert symmetric_kl(p_MV, p_MV).eq(0).all()
    assert symmetric_kl(p_MV, q_MV).gt(0).all()


def test_tokens_masked_in_both_add_nothing_to_the_kl():
    p_MV, q_MV = random_logp(0), random_logp(1)
    masked_M1 = torch.full((len(p_MV), 1), -torch.inf, dtype=torch.float64)
    found_M = symmetric_kl(torch.cat([masked_M1, p_MV], -1), torch.cat([masked_M1, q_MV], -1))
    torch.testing.assert_close(found_M, symmetric_kl(p_MV, q_MV))


def test_tail_bucket_completes_the_distribution():
    logp_MK = random_logp(0)[:, :3]
    tailed = with_tail(logp_MK)
    assert torch.equal(tailed[:, :3], logp_MK)
    assert tailed[:, 3].exp().tolist() == pytest.approx((1 - logp_MK.exp().sum(-1)).tolist())
    assert tailed.exp().sum(-1).tolist() == pytest.approx([1.0] * 5)


def test_tail_bucket_is_finite_when_the_tokens_already_hold_all_probability():
    over_MK = torch.tensor([[0.75, 0.2500001]]).log()
    assert with_tail(over_MK).isfinite().all()
    assert with_tail(over_MK)[0, 2].exp().item() == pytest.approx(torch.finfo(torch.float32).eps)


def sure_logp(seed: int, rows: int, tokens: int) -> torch.Tensor:
    """Distributions that are sure of their first token, up to a rest between 1e-12 and 1/2."""
    generator = torch.Generator().manual_seed(seed)
    rest_M1 = 10 ** -(0.3 + 11.7 * torch.rand(rows, 1, generator=generator, dtype=torch.float64))
    return torch.cat([torch.log1p(-rest_M1), rest_M1.log() + random_logp(seed, rows, tokens - 1)], -1)


def bucketed_kl(p_MV: torch.Tensor, q_MV: torch.Tensor, k: int, dtype: torch.dtype) -> torch.Tensor:
    """The symmetric KL over the first distribution's k likeliest tokens and the rest, computed in a precision."""
    ids_MK = p_MV.topk(k).indices
    return symmetric_kl(*(with_tail(logp_MV.to(dtype).gather(-1, ids_MK)) for logp_MV in (p_MV, q_MV))).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first", [random_logp, sure_logp])
@pytest.mark.parametrize("second", [random_logp, sure_logp])
@pytest.mark.parametrize(("tokens", "k"), [(7, 1), (7, 3), (7, 6), (500, 64)])
def test_kl_on_buckets_is_a_lower_bound_of_the_whole(first, second, tokens, k, dtype):
    p_MV, q_MV = first(0, 200, tokens), second(1, 200, tokens)
    rests = [1 - logp_MV.gather(-1, p_MV.topk(k).indices).exp().sum(-1) for logp_MV in (p_MV, q_MV)]
    precision = torch.finfo(dtype).eps
    less_M, more_M = torch.stack(rests).clamp(min=precision).aminmax(dim=0)
    rounding_M = more_M * torch.log1p(4 * precision / less_M)  # the smaller rest is off by a few roundings of 1
    bucketed_M = bucketed_kl(p_MV, q_MV, k, dtype)
    assert (bucketed_M <= symmetric_kl(p_MV, q_MV) * (1 + 1e-6) + rounding_M + 1e-5).all()
    assert bucketed_M.ge(-1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_sure_of_its_token_does_not_make_the_kl_on_buckets_many_times_the_whole(dtype):
    rest_V = torch.tensor([1e-9, 1e-3], dtype=torch.float64)[:, None].expand(2, 4999) / 4999
    p_MV, q_MV = torch.cat([1 - rest_V.sum(-1, keepdim=True), rest_V], -1).log()[:, None]
    whole, bucketed = symmetric_kl(p_MV, q_MV).item(), bucketed_kl(p_MV, q_MV, 64, dtype).item()
    assert whole / 2 < bucketed < whole * (1 + 1e-6)
