"""Token-level surrogates, the KL to a reference, and their aggregation (method.md eq. 2)."""

import torch
from torch import Tensor


def clipped_surrogate(
    logp_NT: Tensor, old_logp_NT: Tensor, advantage_NT: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """PPO's pessimistic surrogate per token, to be maximised. [N, T], no reduction (method.md eq. 2).

    Positive advantages are capped at ratio 1 + clip_high, negative ones at 1 - clip_low; the other two corners keep
    their gradient.
    """
    ratio_NT = torch.exp(logp_NT - old_logp_NT)
    clipped_NT = ratio_NT.clamp(1 - clip_low, 1 + clip_high)
    return torch.minimum(ratio_NT * advantage_NT, clipped_NT * advantage_NT)


def is_clipped(
    logp_NT: Tensor, old_logp_NT: Tensor, advantage_NT: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """True where `clipped_surrogate` is constant, so that the token has no gradient. [N, T] bool."""
    ratio_NT = torch.exp(logp_NT - old_logp_NT)
    too_high_NT = (advantage_NT > 0) & (ratio_NT > 1 + clip_high)
    too_low_NT = (advantage_NT < 0) & (ratio_NT < 1 - clip_low)
    return too_high_NT | too_low_NT


def k3_kl(logp_NT: Tensor, reference_logp_NT: Tensor) -> Tensor:
    """exp(r - l) - (r - l) - 1 with l the policy's and r the reference's log-prob of a token. [N, T], >= 0, in nats.

    On tokens that the policy itself sampled this is an unbiased estimate of KL(policy || reference) (Schulman,
    "Approximating KL divergence", 2020; DeepSeekMath, arXiv 2402.03300, eq. 4). With the tokens held fixed its gradient
    is (1 - exp(r - l)) grad l. That estimates the gradient of KL(reference || policy) without bias, not that of
    KL(policy || reference). The two gradients agree only near the reference, to first order in the distance. No
    gradient flows into the reference. In later iterations value and gradient are biased; nothing corrects for it.
    """
    gap_NT = reference_logp_NT.detach() - logp_NT
    return torch.expm1(gap_NT) - gap_NT


def sequence_mean(value_NT: Tensor, mask_NT: Tensor, *, sequences: float) -> Tensor:
    """sum_i (1/|y_i|) sum_t value_it / sequences. Scalar (the two means of method.md eq. 2).

    `sequences` is the number of responses of the whole optimizer step, not of this micro-batch. It includes responses
    that were left out because their gradient is zero. So the sum is the same for every split into micro-batches (trap
    3). Values on padding are ignored, whatever they are. A response without tokens adds 0.
    """
    length_N = mask_NT.sum(-1).clamp(min=1)
    return (_row_sums(value_NT, mask_NT) / length_N).sum() / sequences


def token_mean(value_NT: Tensor, mask_NT: Tensor, *, tokens: float) -> Tensor:
    """sum_i sum_t value_it / tokens: every token counts alike (DAPO, arXiv 2503.14476, eq. 8). Scalar.

    `tokens` is the number of response tokens of the whole optimizer step. It includes responses that were left out
    because their gradient is zero. Padding as in `sequence_mean`.
    """
    return _row_sums(value_NT, mask_NT).sum() / tokens


def constant_mean(value_NT: Tensor, mask_NT: Tensor, *, sequences: float, max_new_tokens: int) -> Tensor:
    """sum_i sum_t value_it / (sequences * max_new_tokens), without lengths (Dr. GRPO, arXiv 2503.20783). Scalar.

    `sequences` as in `sequence_mean`; `max_new_tokens` is the greatest length that a response may have, in tokens.
    """
    return _row_sums(value_NT, mask_NT).sum() / (sequences * max_new_tokens)


def _row_sums(value_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """The sum over each response's own tokens, whatever values the padding has. [N]."""
    return torch.where(mask_NT, value_NT, torch.zeros_like(value_NT)).sum(-1)
