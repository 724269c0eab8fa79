"""The distillation signal and the measures of behaviour (method.md sections 2 and 4)."""

import torch
from torch import Tensor


def sampled_delta(logp_NT: Tensor, teacher_logp_NT: Tensor) -> Tensor:
    """delta_t = log pi_teacher(y_t) - log pi_student(y_t), without a bound. [N, T] (method.md eq. 3).

    Used as an advantage, its policy gradient is the sampled gradient of the reverse KL. No gradient flows through it.
    """
    return (teacher_logp_NT - logp_NT).detach()


def clamped_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, bound: float) -> Tensor:
    """The sampled delta within [-bound, bound]: tokens beyond it pull as much as those at it. [N, T], in nats."""
    return sampled_delta(logp_NT, teacher_logp_NT).clamp(-bound, bound)


def masked_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, bound: float) -> Tensor:
    """The sampled delta, and 0 on tokens where it is beyond [-bound, bound]: they teach nothing. [N, T], in nats.

    They still count in the denominator, as every token of advantage 0 does.
    """
    delta_NT = sampled_delta(logp_NT, teacher_logp_NT)
    return torch.where(delta_NT.abs() > bound, torch.zeros_like(delta_NT), delta_NT)


def proximal_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, teacher_share: float) -> Tensor:
    """log(a exp(delta) + 1 - a) with a = `teacher_share` in (0, 1]. [N, T], in nats (method.md section 4).

    This is the delta towards a nearer target, the mixture a pi_teacher + (1 - a) pi_student with the student as it is
    now, held fixed: used as an advantage, its policy gradient is that of the reverse KL to that target. It is at least
    log(1 - a), near 0 it is a delta, far above it is delta + log(a); a = 1 is the sampled delta without a bound. It
    is exactly 0 where teacher and student agree.
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
    """The student's probability on the tokens both have in their top k, over its probability on its own top k. [M]."""
    common_MK = (student_ids_MK[:, :, None] == teacher_ids_MK[:, None, :]).any(-1)
    mass_MK = student_logp_MK.exp()
    return (mass_MK * common_MK).sum(-1) / mass_MK.sum(-1)


def symmetric_kl(logp_MV: Tensor, other_logp_MV: Tensor) -> Tensor:
    """KL(p||q) + KL(q||p) per token, in nats. [M] (method.md section 2).

    Log-probs of one distribution each over the same V tokens (or buckets). Tokens at -inf add 0: there is one
    vocabulary mask, so that a token is masked in both or in neither.
    """
    both_MV = torch.isfinite(logp_MV) & torch.isfinite(other_logp_MV)
    difference_MV = torch.where(both_MV, logp_MV - other_logp_MV, 0.0)
    return ((logp_MV.exp() - other_logp_MV.exp()) * difference_MV).sum(-1)


def with_tail(logp_MK: Tensor) -> Tensor:
    """Append one bucket that holds the probability outside the K tokens. [M, K + 1] log-probs.

    On the buckets of a partition the symmetric KL is a lower bound of the one over the whole vocabulary.
    """
    rest_M1 = (1 - logp_MK.exp().sum(-1, keepdim=True)).clamp(min=torch.finfo(logp_MK.dtype).tiny)
    return torch.cat([logp_MK, rest_M1.log()], dim=-1)
