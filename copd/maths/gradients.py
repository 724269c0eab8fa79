"""What a few noisy gradients tell about the gradients that they are samples of."""

from __future__ import annotations

import math
from collections.abc import Sequence


def signal_squared(mean_squared: float, squares_B: Sequence[float]) -> float:
    """An unbiased estimate of |E g|^2 from the squared norm of the mean of B independent gradients, and those of each.

    The mean of B gradients is longer than E g, by their variance / B in the square. That is taken off:
    |m|^2 - (sum_b |g_b|^2 - B |m|^2) / (B (B - 1)). The estimate is below 0 where noise hides the signal. Raises
    ValueError for fewer than two gradients.
    """
    count = len(squares_B)
    if count < 2:
        raise ValueError(f"{count} gradients: at least two tell signal from noise")
    return mean_squared - (math.fsum(squares_B) - count * mean_squared) / (count * (count - 1))


def signal_cosine(dot: float, first: float, second: float) -> float | None:
    """The cosine of two expected gradients, in [-1, 1].

    `dot` is the dot product of the two means, whose samples are independent; `first` and `second` are the results of
    `signal_squared`. Without the correction noise would pull every cosine towards 0. None where noise hides a gradient.
    """
    if first <= 0 or second <= 0:
        return None
    return max(-1.0, min(1.0, dot / math.sqrt(first * second)))
