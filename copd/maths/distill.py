"""The distillation signal and the measures of behaviour (method.md sections 2 and 4)."""

import torch
from torch import Tensor

WHOLE_VOCABULARY = 4096
"""Up to this many tokens a KL is over all of them. Above, it is over the likeliest tokens and a bucket for the rest."""


def sampled_delta(logp_NT: Tensor, teacher_logp_NT: Tensor) -> Tensor:
    """delta_t = log pi_teacher(y_t) - log pi_student(y_t), without a bound. [N, T] (method.md eq. 3).

    Used as an advantage, its policy gradient is the sampled gradient of the reverse KL. No gradient flows through
    delta.
    """
    return (teacher_logp_NT - logp_NT).detach()


def clamped_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, bound: float) -> Tensor:
    """The sampled delta, clamped to [-bound, bound]: a token beyond the bound counts as much as one at it.

    [N, T], in nats.
    """
    return sampled_delta(logp_NT, teacher_logp_NT).clamp(-bound, bound)


def masked_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, bound: float) -> Tensor:
    """The sampled delta, with 0 where it is beyond [-bound, bound]: these tokens teach nothing. [N, T], in nats.

    They still count in the denominator, like every token of advantage 0.
    """
    delta_NT = sampled_delta(logp_NT, teacher_logp_NT)
    return torch.where(delta_NT.abs() > bound, torch.zeros_like(delta_NT), delta_NT)


def proximal_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, teacher_share: float) -> Tensor:
    """log(a exp(delta) + 1 - a) with a = `teacher_share` in (0, 1]. [N, T], in nats (method.md section 4).

    It is the delta to the mixture a pi_teacher + (1 - a) pi_student, with the current student held fixed. Used as an
    advantage, its policy gradient is that of the reverse KL to this mixture. The value is at least log(1 - a). Near 0
    it is about a * delta; for a large delta it is about delta + log(a). With a = 1 it is the sampled delta. It is
    exactly 0 where teacher and student agree.
    """
    delta_NT = sampled_delta(logp_NT, teacher_logp_NT)
    share = delta_NT.new_tensor(teacher_share)
    mixed_NT = torch.logaddexp(delta_NT + share.log(), torch.log1p(-share))
    return torch.where(delta_NT == 0, torch.zeros_like(delta_NT), mixed_NT)


def top_k_overlap(student_ids_MK: Tensor, teacher_ids_MK: Tensor) -> Tensor:
    """|Top_k(student) and Top_k(teacher)| / k per token. [M] in [0, 1] (method.md section 2).

    Rows hold distinct token ids in any order. Two unrelated policies over V tokens reach k / V by chance.
    """
    common_MK = (student_ids_MK[:, :, None] == teacher_ids_MK[:, None, :]).any(-1)
    return common_MK.float().mean(-1)


def mass_overlap(student_ids_MK: Tensor, student_logp_MK: Tensor, teacher_ids_MK: Tensor) -> Tensor:
    """The student's probability of the tokens in both top k, divided by its probability of its own top k. [M]."""
    common_MK = (student_ids_MK[:, :, None] == teacher_ids_MK[:, None, :]).any(-1)
    mass_MK = student_logp_MK.exp()
    return (mass_MK * common_MK).sum(-1) / mass_MK.sum(-1)


def symmetric_kl(logp_MV: Tensor, other_logp_MV: Tensor) -> Tensor:
    """KL(p||q) + KL(q||p) per token, in nats. [M] (method.md section 2).

    The arguments are log-probs over the same V tokens (or buckets). Tokens at -inf add 0: there is one vocabulary mask,
    so a token is masked in both or in neither.
    """
    both_MV = torch.isfinite(logp_MV) & torch.isfinite(other_logp_MV)
    difference_MV = torch.where(both_MV, logp_MV - other_logp_MV, 0.0)
    return ((logp_MV.exp() - other_logp_MV.exp()) * difference_MV).sum(-1)


def with_tail(logp_MK: Tensor) -> Tensor:
    """Append one bucket that holds the rest, the probability outside the K tokens. [M, K + 1] log-probs.

    A rest below the precision of 1 counts as that precision: rounding would decide a smaller one. So the symmetric KL
    over such buckets is, up to rounding, a lower bound of that over the whole vocabulary.
    """
    rest_M1 = (1 - logp_MK.exp().sum(-1, keepdim=True)).clamp(min=torch.finfo(logp_MK.dtype).eps)
    return torch.cat([logp_MK, rest_M1.log()], dim=-1)
