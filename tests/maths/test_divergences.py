"""The divergences of dense OPD, against torch.distributions, scipy, hand-computed values and the sampled signal."""

import math

import pytest
import scipy.spatial.distance
import torch
from torch.distributions import Categorical, kl_divergence

from copd.maths.distill import sampled_delta
from copd.maths.divergences import Target, forward_kl, jensen_shannon, reverse_kl

ALL = pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, jensen_shannon])


def logits(seed, rows=5, tokens=7, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, tokens, generator=generator, dtype=torch.float64)


def logp(*arguments, **options):
    return logits(*arguments, **options).log_softmax(-1)


def test_the_divergences_of_two_distributions_by_hand():
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert reverse_kl(student, teacher).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert forward_kl(student, teacher).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    to_mean = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
    from_teacher = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
    assert jensen_shannon(student, teacher).item() == pytest.approx((to_mean + from_teacher) / 2)


def test_the_divergences_are_those_of_other_libraries():
    student, teacher = logp(0), logp(1)
    p, q = Categorical(logits=student), Categorical(logits=teacher)
    torch.testing.assert_close(reverse_kl(student, teacher), kl_divergence(p, q))
    torch.testing.assert_close(forward_kl(student, teacher), kl_divergence(q, p))
    known = [scipy.spatial.distance.jensenshannon(a, b) ** 2 for a, b in zip(p.probs, q.probs, strict=True)]
    torch.testing.assert_close(jensen_shannon(student, teacher), torch.tensor(known, dtype=torch.float64))


def test_the_jensen_shannon_divergence_is_symmetric_and_at_most_log_2():
    student, teacher = logp(0, scale=9.0), logp(1, scale=9.0)
    torch.testing.assert_close(jensen_shannon(student, teacher), jensen_shannon(teacher, student))
    assert (jensen_shannon(student, teacher) <= math.log(2)).all()
    apart = torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]])
    assert jensen_shannon(*apart).item() == pytest.approx(math.log(2))


@ALL
def test_teacher_and_student_alike_give_0_without_a_gradient(divergence):
    student = logits(0).requires_grad_()
    found = divergence(student.log_softmax(-1), student.detach().log_softmax(-1))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)
    found.sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-12, rtol=0)


@ALL
def test_gradients_are_those_of_finite_differences_and_reach_the_student_alone(divergence):
    student, teacher = logits(0).requires_grad_(), logp(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(x.log_softmax(-1), teacher.detach()), (student,))
    divergence(student.log_softmax(-1), teacher).sum().backward()
    assert teacher.grad is None


@ALL
def test_masked_tokens_add_nothing_and_have_no_gradient(divergence):
    banned = torch.tensor([False, True, False, False, True, False, False])
    student = logits(0).requires_grad_()
    masked = divergence(
        student.masked_fill(banned, -torch.inf).log_softmax(-1),
        logits(1).masked_fill(banned, -torch.inf).log_softmax(-1),
    )
    without = divergence(student[:, ~banned].log_softmax(-1), logits(1)[:, ~banned].log_softmax(-1))
    torch.testing.assert_close(masked, without)
    masked.sum().backward()
    assert student.grad.isfinite().all()
    assert (student.grad[:, banned] == 0).all()


@ALL
def test_a_teacher_whose_log_prob_is_not_a_number_is_not_hidden(divergence):
    teacher = logp(1)
    teacher[2, 3] = torch.nan
    assert divergence(logp(0), teacher).isnan().tolist() == [False, False, True, False, False]


def test_the_expected_gradient_of_the_sampled_signal_is_that_of_the_reverse_kl():
    """Summed over all tokens by their probability: - delta(v) grad log pi(v) (method.md eq. 3, 4)."""
    student, teacher = logits(0).requires_grad_(), logp(1)
    logp_MV = student.log_softmax(-1)
    (dense,) = torch.autograd.grad(reverse_kl(logp_MV, teacher).sum(), student, retain_graph=True)
    surrogate = -(logp_MV.detach().exp() * sampled_delta(logp_MV, teacher) * logp_MV).sum()
    (sampled,) = torch.autograd.grad(surrogate, student)
    torch.testing.assert_close(dense, sampled)


def likeliest(of, k):
    return of.topk(k).indices


@ALL
@pytest.mark.parametrize("scale", [1.0, 4.0, 30.0], ids=["unsure", "sure", "as sure as numbers get"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k_tokens_and_a_bucket_give_a_lower_bound(divergence, scale, dtype):
    student, teacher = logp(0, 50, 200, scale).to(dtype), logp(1, 50, 200, scale).to(dtype)
    whole = divergence(student, teacher)
    for ids in (likeliest(student, 8), likeliest(teacher, 8)):
        found = Target(divergence, teacher.gather(-1, ids), ids).divergence_of(student)
        assert (found <= whole + 1e-4 * (1 + whole)).all()
        assert (found >= -1e-4).all()


@ALL
def test_all_tokens_but_one_and_a_bucket_give_the_divergence_of_the_whole_vocabulary(divergence):
    student, teacher = logp(0), logp(1)
    ids = likeliest(student, 6)
    found = Target(divergence, teacher.gather(-1, ids), ids).divergence_of(student)
    torch.testing.assert_close(found, divergence(student, teacher))


@ALL
def test_the_gradient_through_a_bucket_is_that_of_finite_differences(divergence):
    student, teacher = logits(0).requires_grad_(), logp(1)
    ids = likeliest(teacher, 3)
    target = Target(divergence, teacher.gather(-1, ids), ids)
    assert torch.autograd.gradcheck(lambda x: target.divergence_of(x.log_softmax(-1)), (student,))


def test_a_target_without_ids_is_the_whole_vocabulary():
    student, teacher = logp(0), logp(1)
    torch.testing.assert_close(Target(forward_kl, teacher).divergence_of(student), forward_kl(student, teacher))
