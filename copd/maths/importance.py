"""Truncated importance weights of tokens of another distribution than the trainer's (method.md section 3)."""

import torch
from torch import Tensor


def importance_weights(logp_NT: Tensor, sampler_logp_NT: Tensor, *, cap: float) -> Tensor:
    """min(exp(l - s), cap) with l the trainer's and s the sampler's log-prob of a token. [N, T], without a gradient.

    The ratio makes a mean over the sampler's tokens one over the trainer's; the cap bounds its variance, and biases it
    where a ratio is larger (Ionides, "Truncated importance sampling", 2008). A log-prob that is not a number gives a
    weight that is none.
    """
    return torch.exp(logp_NT.detach() - sampler_logp_NT.detach()).clamp(max=cap)


def effective_share(mean: float, mean_of_squares: float) -> float:
    """Kish's effective sample size of weights, as a share of their number: (E w)^2 / E w^2, between 0 and 1.

    1 if all weights are equal, whatever the rounding. 0 if all weights are 0.
    """
    return min(1.0, mean**2 / mean_of_squares) if mean_of_squares else 0.0
