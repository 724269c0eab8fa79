"""What a comparison over several seeds allows to say: intervals, tests, and the seeds that a difference needs."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

import mpmath
import torch
from torch import Tensor

from copd.maths.intervals import Z95

CONFIDENCE = 0.95
MOST_SEEDS = 10_000
DRAWS_AT_ONCE = 100


def t_below(t: float, degrees: float) -> float:
    """P(T <= t) of Student's t: 1 - I_x(degrees / 2, 1 / 2) / 2 at x = degrees / (degrees + t^2), for t >= 0."""
    tail = mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True) / 2
    return float(1 - tail if t >= 0 else tail)


@cache
def t_quantile(share: float, degrees: float) -> float:
    """The t below which this `share`, 0.5 <= share < 1, of Student's distribution lies; found by bisection."""
    low, high = 0.0, 1.0
    while t_below(high, degrees) < share:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, degrees) < share else (low, middle)
    return high


def t_interval(values_S: Sequence[float]) -> tuple[float, float, float]:
    """Mean of one value a seed, and its t interval: (mean, low, high). One seed has the interval of all numbers."""
    count, mean = len(values_S), math.fsum(values_S) / len(values_S)
    if count < 2:
        return mean, -math.inf, math.inf
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * _deviation(values_S) / math.sqrt(count)
    return mean, mean - half, mean + half


def t_p_value(values_S: Sequence[float]) -> float:
    """The two-sided p-value of the mean being 0; 1 for one seed. Without spread it is 0, or 1 if the mean is 0."""
    count, mean = len(values_S), math.fsum(values_S) / len(values_S)
    if count < 2:
        return 1.0
    error = _deviation(values_S) / math.sqrt(count)
    if error == 0:
        return float(mean == 0)
    return 2 * (1 - t_below(abs(mean) / error, count - 1))


def holm(p_M: Sequence[float]) -> list[float]:
    """Holm's p-values of M tests of one family (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    order = sorted(range(len(p_M)), key=lambda m: p_M[m])
    adjusted, least = [0.0] * len(p_M), 0.0
    for rank, m in enumerate(order):
        least = max(least, min(1.0, (len(p_M) - rank) * p_M[m]))
        adjusted[m] = least
    return adjusted


def seeds_needed(values_S: Sequence[float], difference: float) -> int | None:
    """The least number of seeds whose t interval is no wider than `difference` to each side, if they spread like these.

    None for one seed, whose spread is unknown, and if more than `MOST_SEEDS` were needed.
    """
    if len(values_S) < 2:
        return None
    deviation = _deviation(values_S)
    count = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=lambda n: _half(deviation, n) <= difference)
    return count if count <= MOST_SEEDS else None


def crossed_intervals(
    differences_M: Sequence[Tensor], sources_P: Sequence[Sequence[str]], *, draws: int = 1000, seed: int = 0
) -> list[tuple[float, float]]:
    """A 95 % interval of the mean of each [S, P] tensor over other seeds and problems; of one seed, over problems.

    Its half width is the root of two squares: the half width of the t interval over the seeds' means, and 1.96 standard
    errors over problems. Those come from resampling the sources of the problems, such as pictures. A problem counts as
    often as the product of the counts of its sources, so that problems that share a source vary together (pigeonhole
    bootstrap, Owen, Annals of Applied Statistics 1, 2007). A problem without sources is its own. All tensors are
    resampled by the same draws.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(s for sources in sources_P for s in sources))}
    own = iter(range(len(names), len(names) + len(sources_P)))
    places_P = [[names[s] for s in dict.fromkeys(sources)] or [next(own)] for sources in sources_P]
    total, widest = len(names) + len(sources_P), max(map(len, places_P))
    padded_PW = torch.tensor([[*places, *[total] * (widest - len(places))] for places in places_P])
    generator = torch.Generator().manual_seed(seed)
    difference_PM = torch.stack([each.double().mean(0) for each in differences_M], dim=1)
    means_DM = torch.cat([_resampled(difference_PM, padded_PW, total, part, generator) for part in _parts(draws)])
    over_problems_M = Z95 * means_DM[means_DM.isfinite().all(1)].std(0)
    return [_around(each, half) for each, half in zip(differences_M, over_problems_M.tolist(), strict=True)]


def _around(difference_SP: Tensor, over_problems: float) -> tuple[float, float]:
    """The interval over seeds, widened by the half width over problems; of one seed, that alone."""
    mean, low, _ = t_interval(difference_SP.double().mean(1).tolist())
    half = math.hypot(over_problems, mean - low) if len(difference_SP) > 1 else over_problems
    return mean - half, mean + half


def _parts(draws: int) -> list[int]:
    """Numbers of draws that are made together."""
    return [min(DRAWS_AT_ONCE, draws - first) for first in range(0, draws, DRAWS_AT_ONCE)]


def _resampled(difference_PM: Tensor, padded_PW: Tensor, total: int, draws: int, generator: torch.Generator) -> Tensor:
    """The means of the differences in each draw, NaN where no problem is in it. [D, M].

    `padded_PW` holds each problem's sources, filled up by `total`.
    """
    used = torch.unique(padded_PW[padded_PW < total])
    weight_DK = torch.ones(draws, total + 1, dtype=torch.float64)
    weight_DK[:, used] = _counts(len(used), draws, generator)
    weight_DP = weight_DK[:, padded_PW].prod(-1)
    return (weight_DP @ difference_PM) / weight_DP.sum(-1, keepdim=True)


def _counts(things: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each of the things comes in a sample of as many, with replacement. [D, things]."""
    drawn = torch.randint(things, (draws, things), generator=generator)
    return torch.zeros(draws, things, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def _deviation(values_S: Sequence[float]) -> float:
    mean = math.fsum(values_S) / len(values_S)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values_S) / (len(values_S) - 1))


def _half(deviation: float, count: int) -> float:
    return t_quantile((1 + CONFIDENCE) / 2, count - 1) * deviation / math.sqrt(count)
