"""The divergences of dense OPD: of a student's next-token distribution from its teacher's (method.md section 4).

The arguments are log-probs over the same V tokens, or over K tokens and a bucket that holds the rest. A masked token is
-inf in both and adds nothing. Gradients flow into the student's log-probs only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from copd.maths.distill import with_tail

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(the student's log-probs [M, V], the teacher's) -> the divergence per token [M], >= 0, in nats."""


class Target(NamedTuple):
    """What M tokens' distributions are compared with: a teacher's log-probs over the whole vocabulary, or of K tokens.

    logp_MK  the teacher's log-probs. [M, V] or [M, K]
    ids_MK   the K tokens at each place; None: the whole vocabulary
    """

    divergence: Divergence
    logp_MK: Tensor
    ids_MK: Tensor | None = None

    def of(self, part: slice, device: torch.device) -> Target:
        """The target of some of the M tokens, on a device."""
        ids_MK = None if self.ids_MK is None else self.ids_MK[part].to(device)
        return Target(self.divergence, self.logp_MK[part].to(device), ids_MK)

    def divergence_of(self, logp_MV: Tensor) -> Tensor:
        """The student's divergence from this target per token. [M] in nats.

        K tokens are compared together with a bucket that holds the rest. Up to rounding, each divergence over such
        buckets is a lower bound of the divergence over the whole vocabulary.
        """
        if self.ids_MK is None:
            return self.divergence(logp_MV, self.logp_MK)
        return self.divergence(with_tail(logp_MV.gather(-1, self.ids_MK)), with_tail(self.logp_MK))


def reverse_kl(logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
    """KL(student || teacher) per token. [M] in nats.

    It seeks one mode of the teacher. Its gradient is the expectation, over the student's next token, of the gradient of
    the sampled token's delta (`copd.maths.distill.sampled_delta`) used as an advantage.
    """
    return _kl(*_without_masked(logp_MV, teacher_logp_MV))


def forward_kl(logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
    """KL(teacher || student) per token. [M] in nats. It covers all modes of the teacher."""
    logp_MV, teacher_logp_MV = _without_masked(logp_MV, teacher_logp_MV)
    return _kl(teacher_logp_MV, logp_MV)


def jensen_shannon(logp_MV: Tensor, teacher_logp_MV: Tensor) -> Tensor:
    """KL(student || m) / 2 + KL(teacher || m) / 2 with m their mean, per token. [M] in [0, log 2], symmetric."""
    logp_MV, teacher_logp_MV = _without_masked(logp_MV, teacher_logp_MV)
    mean_MV = torch.logaddexp(logp_MV, teacher_logp_MV) - logp_MV.new_tensor(2.0).log()
    return (_kl(logp_MV, mean_MV) + _kl(teacher_logp_MV, mean_MV)) / 2


def _kl(logp_MV: Tensor, other_logp_MV: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v)."""
    return (logp_MV.exp() * (logp_MV - other_logp_MV)).sum(-1)


def _without_masked(logp_MV: Tensor, teacher_logp_MV: Tensor) -> tuple[Tensor, Tensor]:
    """Both with 0 on the tokens that the student masks, which then add nothing and have no gradient.

    A token that the teacher alone masks makes its divergence infinite, so that the learner skips the step.
    """
    masked_MV = logp_MV == -torch.inf
    return logp_MV.masked_fill(masked_MV, 0.0), teacher_logp_MV.detach().masked_fill(masked_MV, 0.0)
