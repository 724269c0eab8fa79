"""Intervals at 95 % for the numbers in tables, and the pass@k estimator."""

import math

import torch
from torch import Tensor

Z95 = 1.959963984540054


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def stratified_mean(groups: list[Tensor]) -> tuple[float, float, float]:
    """Mean of the groups' means, each group counting alike, with a normal interval: (mean, low, high) in [0, 1].

    Each group holds one score in [0, 1] per problem; problems are independent within and between groups. The variance
    is taken after adding two scores of 0 and two of 1 to each group (Agresti and Coull's adjustment), so that a group
    in which all is right or all is wrong still has an interval.
    """
    means = [float(group.double().mean()) for group in groups]
    prior = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    adjusted = [torch.cat([group.double(), prior]) for group in groups]
    variance = sum(float(scores.var(unbiased=False)) / len(scores) for scores in adjusted)
    mean, half = sum(means) / len(means), Z95 * math.sqrt(variance) / len(groups)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def pass_at_k(correct_P: Tensor, samples: int, k: int) -> Tensor:
    """Unbiased estimate, per problem, that one of k samples is right: 1 - C(n - c, k) / C(n, k). [P] float64.

    `correct_P` counts right answers among `samples` >= k (Chen et al., arXiv 2107.03374, eq. 1).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples a problem")
    chances = [1 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return torch.tensor(chances, dtype=torch.float64)[correct_P.long()]
