"""The distillation signal and the measures of behaviour (method.md sections 2 and 4)."""

import torch
from torch import Tensor


def sampled_delta(logp_NT: Tensor, teacher_logp_NT: Tensor, *, clamp: float) -> Tensor:
    """delta_t = log pi_teacher(y_t) - log pi_student(y_t), bounded to [-clamp, clamp]. [N, T] (method.md eq. 3).

    Used as an advantage, its policy gradient is the sampled gradient of the reverse KL. No gradient flows through it.
    """
    return (teacher_logp_NT - logp_NT).detach().clamp(-clamp, clamp)


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
