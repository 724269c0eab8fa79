"""Token-level surrogates and their aggregation (method.md eq. 2)."""

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


def sequence_mean(value_NT: Tensor, mask_NT: Tensor, *, sequences: float) -> Tensor:
    """sum_i (1/|y_i|) sum_t value_it / sequences. Scalar (the two means of method.md eq. 2).

    `sequences` is the number of responses of the whole optimizer step, not of this micro-batch, and counts responses
    that were left out because their gradient is zero: the sum over any split into micro-batches is then the same
    (trap 3). Values on padding are ignored, whatever they are; a response without tokens adds 0.
    """
    length_N = mask_NT.sum(-1).clamp(min=1)
    masked_NT = torch.where(mask_NT, value_NT, torch.zeros_like(value_NT))
    return (masked_NT.sum(-1) / length_N).sum() / sequences
