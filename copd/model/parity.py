"""The check at start: does this model give the same log-probs with a shared prefix as without?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from copd.model.policy import Policy
from copd.types import Problem

TOLERANCE_NATS = {None: 1e-3, torch.bfloat16: 0.25}
"""Greatest difference of a log-prob by the type of autocast: rounding in bfloat16 is coarse, an error is not."""


def largest_difference(policy: Policy, problems: Sequence[Problem], *, rollouts_per_prompt: int = 2) -> float:
    """Greatest difference in nats between shared-prefix and plain log-probs of a few sampled responses."""
    generator = torch.Generator().manual_seed(0)
    rollouts = policy.sample(problems, rollouts_per_prompt=rollouts_per_prompt, generator=generator, max_new_tokens=8)
    shared = policy.score(rollouts).logp_NT
    policy.shared_prefix = False
    try:
        plain = policy.score(rollouts).logp_NT
    finally:
        policy.shared_prefix = True
    return float((shared - plain).abs().max())


def settle_path(policy: Policy, problems: Sequence[Problem]) -> str | None:
    """Leave the shared prefix on where it agrees with the plain path on `problems`, else turn it off.

    Returns a warning where it was turned off, None otherwise.
    """
    try:
        difference = largest_difference(policy, problems)
    except (AttributeError, TypeError, RuntimeError) as error:
        policy.shared_prefix = False
        return f"the shared prefix does not work with this model ({error}); using the plain path, which is slower"
    if difference <= TOLERANCE_NATS[policy.autocast]:
        return None
    policy.shared_prefix = False
    return (
        f"shared-prefix log-probs differ from the plain forward's by {difference:.2g} nats "
        f"(accepted: {TOLERANCE_NATS[policy.autocast]}); using the plain path, which is slower"
    )
