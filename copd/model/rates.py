"""The learning rate of an update as a share of the recipe's: it rises, stays, and may fall again.

Pure functions of the number of updates that were made before, so that a resumed branch needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Rate = Callable[[int], float]
"""The share of the learning rate in an update, given the number of updates before it."""


def constant(update: int) -> float:
    """The whole rate in every update."""
    return 1.0


def linear(update: int, *, steps: int, to: float) -> float:
    """From the whole rate in a straight line to the share `to` after `steps` updates, at which it stays."""
    return 1 - (1 - to) * min(1.0, update / steps)


def cosine(update: int, *, steps: int, to: float) -> float:
    """From the whole rate along half a cosine to the share `to` after `steps` updates, at which it stays."""
    return to + (1 - to) * (1 + math.cos(math.pi * min(1.0, update / steps))) / 2


def warmed(rate: Rate, steps: int) -> Rate:
    """`rate` after `steps` updates in which the share rises evenly to 1: 1 / steps in the first of them."""
    return lambda update: (update + 1) / steps if update < steps else rate(update - steps)
