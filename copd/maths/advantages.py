"""Group-relative advantages (method.md eq. 1)."""

import torch
from torch import Tensor


def group_advantages(
    reward_N: Tensor, prompt_of_N: Tensor, *, normalize_std: bool = True, eps_std: float = 1e-6
) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + eps_std) within each prompt's group. [N] (method.md eq. 1).

    A group is the set of rows with the same value in `prompt_of_N` [N]. Groups may differ in size, and rows may stand
    in any order. The standard deviation is the unbiased one; `normalize_std=False` leaves the division out. If all
    rewards of a group are equal, or if it has one row, its advantages are exactly 0. If a reward of a group is not
    finite, none of its advantages is finite, and the learner skips the step.
    """
    groups = int(prompt_of_N.max()) + 1 if len(prompt_of_N) else 0
    size_P = torch.bincount(prompt_of_N, minlength=groups)
    mean_P = _group_sum(reward_N, prompt_of_N, groups) / size_P
    signal_N = has_signal(reward_N, prompt_of_N)
    centred_N = torch.where(signal_N, reward_N - mean_P[prompt_of_N], 0.0)
    if not normalize_std:
        return centred_N
    variance_P = _group_sum(centred_N.square(), prompt_of_N, groups) / (size_P - 1).clamp(min=1)
    return torch.where(signal_N, centred_N / (variance_P.sqrt()[prompt_of_N] + eps_std), 0.0)


def group_deviations(reward_N: Tensor, prompt_of_N: Tensor) -> Tensor:
    """The unbiased standard deviation of each group's rewards; 0 for a group of one row. [P]."""
    groups = int(prompt_of_N.max()) + 1 if len(prompt_of_N) else 0
    size_P = torch.bincount(prompt_of_N, minlength=groups)
    centred_N = reward_N - (_group_sum(reward_N, prompt_of_N, groups) / size_P)[prompt_of_N]
    return (_group_sum(centred_N.square(), prompt_of_N, groups) / (size_P - 1).clamp(min=1)).sqrt()


def has_signal(reward_N: Tensor, prompt_of_N: Tensor) -> Tensor:
    """True on rows whose group holds at least two different rewards, or one that is not finite. [N] bool.

    The test compares max and min, not the variance, so that rounding never invents a signal.
    """
    groups = int(prompt_of_N.max()) + 1 if len(prompt_of_N) else 0
    high_P = reward_N.new_full((groups,), -torch.inf).scatter_reduce(0, prompt_of_N, reward_N, "amax")
    low_P = reward_N.new_full((groups,), torch.inf).scatter_reduce(0, prompt_of_N, reward_N, "amin")
    return ((high_P > low_P) | ~torch.isfinite(high_P - low_P))[prompt_of_N]


def _group_sum(value_N: Tensor, prompt_of_N: Tensor, groups: int) -> Tensor:
    return value_N.new_zeros(groups).index_add(0, prompt_of_N, value_N)
