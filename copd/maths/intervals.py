"""Intervals at 95 % for the numbers in tables, and the pass@k estimator."""

import math

import torch
from torch import Tensor

Z95 = 1.959963984540054


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def stratified_mean(groups: list[Tensor]) -> tuple[float, float, float]:
    """Mean of the groups' means, with equal weights, and its interval: (mean, low, high) in [0, 1].

    Each group holds one score in [0, 1] per problem. Problems are independent within and between groups. Each group has
    a score interval, `mean_of_scores`. The distances of their limits from their means are combined as the root of their
    squares (MOVER: Zou and Donner, Statistics in Medicine 27, 2008), so that few problems, and groups in which all or
    none is right, have intervals that are wide enough.
    """
    found = [mean_of_scores(group) for group in groups]
    mean = sum(share for share, _, _ in found) / len(found)
    below, above = (math.hypot(*(share - limits[side] for share, *limits in found)) / len(found) for side in (0, 1))
    return mean, max(0.0, mean - below), min(1.0, mean + above)


def mean_of_scores(scores_P: Tensor) -> tuple[float, float, float]:
    """Mean of independent scores in [0, 1], and Wilson's interval for as many problems as they are worth.

    Scores of 0 and 1 are worth one problem each. Scores between vary less, and count for more in the proportion of
    variances; for it two scores of 0 and two of 1 are added (Agresti and Coull's adjustment), so that few equal scores
    do not look certain.
    """
    scores_P = scores_P.double()
    adjusted = torch.cat([scores_P, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)])
    of_binary = float(adjusted.mean() * (1 - adjusted.mean()))
    worth = len(scores_P) * of_binary / float(adjusted.var(unbiased=False))
    mean = float(scores_P.mean())
    low, high = wilson(mean * worth, worth)
    return mean, min(low, mean), max(high, mean)


def paired_difference(groups: list[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """Mean of (second - first), groups with equal weights, and a normal interval: (mean, low, high) in [-1, 1].

    Each group holds two models' scores in [0, 1] on the same problems, [P] and [P]. Problems are independent. A problem
    that both get right, or both get wrong, cancels; so the interval is narrower than that of two separate samples. Half
    a problem is added to each cell of the 2 x 2 table before centre and variance are taken (Agresti and Min, Statistics
    in Medicine 24, 2005). That adds half a difference of 1, half one of -1 and one of 0, so that two models that agree
    everywhere still have an interval. Raises ValueError if the two have different numbers of problems, or none.
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
    """Unbiased estimate, per problem, of the probability that one of k samples is right. [P] float64.

    1 - C(n - c, k) / C(n, k), where `correct_P` counts the c right answers among n = `samples` >= k (Chen et al., arXiv
    2107.03374, eq. 1).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k}: found {samples} samples a problem; accepted: k from 1 to the number of samples")
    chances = [1 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return torch.tensor(chances, dtype=torch.float64)[correct_P.long()]
