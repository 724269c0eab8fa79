"""The settings of the parts of a branch's update."""

from __future__ import annotations

from dataclasses import dataclass

from copd.branches.signals import Signal
from copd.model.objectives import Corrected, as_it_is
from copd.model.policy import Policy
from copd.model.rates import Rate, constant


@dataclass(frozen=True)
class Reference:
    """The reference that native RLVR stays near: a frozen policy that branches may share, and its KL's weight."""

    policy: Policy
    kl_coefficient: float


@dataclass(frozen=True)
class ObjectiveSettings:
    """The settings of the parts of an update.

    `signal` is that of OPD. With `mask_truncated`, truncated native responses are left out as if they had not been
    sampled. `reference` is None if there is no KL term. Batches with a teacher have the rate `opd_learning_rate` and
    `opd_iterations`; None: those of the learner. `rate`: the share of a learning rate in each update. `corrected` is
    applied to the native part.
    """

    signal: Signal
    corrected: Corrected = as_it_is
    normalize_std: bool = True
    mask_truncated: bool = False
    reference: Reference | None = None
    opd_learning_rate: float | None = None
    opd_iterations: int | None = None
    rate: Rate = constant
