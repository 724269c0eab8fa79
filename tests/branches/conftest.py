"""Branches on copies of the tiny model."""

from functools import partial

import pytest

from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.signals import SampledToken
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.tasks.digits import Digits

SAMPLING = SamplingSettings(seed=3, max_new_tokens=6, temperature=1.0)
SETTINGS = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))


@pytest.fixture
def make_branch(policy):
    def make(name="text", index=0, policy=policy, tasks=None, settings=SETTINGS, keep=0, **options):
        twin = policy.clone()
        learner = Learner(twin, **{"learning_rate": 1e-3} | options)
        tasks = tasks or {kind: Digits(kind, seed=3) for kind in ("text", "image")}
        return Branch(
            name, index, twin, tasks, SAMPLING, capability=name, learner=learner, settings=settings, keep=keep
        )

    return make
