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


def paired_difference(groups: list[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """Mean of (second - first), each group counting alike, with a normal interval: (mean, low, high) in [-1, 1].

    Each group holds two models' scores in [0, 1] on the same problems, [P] and [P]; problems are independent. What both
    get right or wrong alike cancels, so that the interval is narrower than that of two separate samples. Centre and
    variance are taken after adding half a problem to each cell of the 2 x 2 table, that is half a difference of 1, half
    one of -1 and one of 0 (Agresti and Min, Statistics in Medicine 24, 2005), so that two models that agree everywhere
    still have an interval. Raises ValueError where the two were not asked the same number of problems, or none.
    """
    mean, centre, variance = 0.0, 0.0, 0.0
    for first_P, second_P in groups:
        if first_P.shape != second_P.shape or not len(first_P):
            raise ValueError(f"paired scores of {len(first_P)} and {len(second_P)} problems")
        difference_P = second_P.double() - first_P.double()
        problems, total, squares = len(difference_P), float(difference_P.sum()), float((difference_P**2).sum())
        adjusted = total / (problems + 2)
        mean += total / problems / len(groups)
        centre += adjusted / len(groups)
        variance += ((squares + 1) / (problems + 2) - adjusted**2) / (problems + 2) / len(groups) ** 2
    half = Z95 * math.sqrt(variance)
    return mean, max(-1.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def pass_at_k(correct_P: Tensor, samples: int, k: int) -> Tensor:
    """Unbiased estimate, per problem, that one of k samples is right: 1 - C(n - c, k) / C(n, k). [P] float64.

    `correct_P` counts right answers among `samples` >= k (Chen et al., arXiv 2107.03374, eq. 1).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples a problem")
    chances = [1 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return torch.tensor(chances, dtype=torch.float64)[correct_P.long()]
