"""Refill of a native batch: further prompts in the place of groups without signal (DAPO's dynamic sampling).

What is refilled holds all that was sampled, so that its reward is the policy's, and its rollouts are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from copd.compute.batching import stack_rows, take_rows
from copd.maths.advantages import has_signal
from copd.types import Rollouts


def refilled(sample: Callable[[int], Rollouts], groups: int, tries: int, *, mask_truncated: bool) -> Rollouts:
    """The graded rollouts of `sample(0)`, `sample(1)`, ... until `groups` groups have signal: at most of `tries`.

    With one try the rollouts are those of `sample(0)` as they are.
    """
    if tries == 1:
        return sample(0)
    made = [sample(0)]
    while sum(int(with_signal(each, mask_truncated).sum()) for each in made) < groups and len(made) < tries:
        made.append(sample(len(made)))
    return replace(_joined(made), groups=groups)


def to_learn_on(rollouts: Rollouts, *, mask_truncated: bool) -> Rollouts:
    """The groups that a refilled batch is learned on, as many as were asked for; of any other batch all.

    The first groups with signal are taken. If there are too few, the first ones without follow: they have no gradient,
    but count in the denominator, as in a batch that is not refilled.
    """
    if rollouts.groups is None:
        return rollouts
    order_P = (~with_signal(rollouts, mask_truncated)).long().argsort(stable=True)
    taken_N = torch.isin(rollouts.prompt_of_N, order_P[: rollouts.groups])
    return replace(take_rows(rollouts, taken_N.nonzero()[:, 0]), groups=None)


def with_signal(rollouts: Rollouts, mask_truncated: bool) -> Tensor:
    """Whether the rewards of each group vary; with `mask_truncated` those of its responses that are finished. [P]."""
    assert rollouts.reward_N is not None
    rows_M = (rollouts.finished_N | (not mask_truncated)).nonzero()[:, 0]
    signal_M = has_signal(rollouts.reward_N[rows_M], rollouts.prompt_of_N[rows_M])
    signal_P = torch.zeros(len(rollouts.problems), dtype=torch.bool)
    signal_P[rollouts.prompt_of_N[rows_M][signal_M]] = True
    return signal_P


def _joined(made: list[Rollouts]) -> Rollouts:
    """All rollouts, sampled by one policy in one way, as one."""
    before = [sum(len(each.problems) for each in made[:place]) for place in range(len(made))]
    return replace(
        made[0],
        problems=tuple(problem for each in made for problem in each.problems),
        tokens_NT=stack_rows([each.tokens_NT for each in made]),
        mask_NT=stack_rows([each.mask_NT for each in made]),
        finished_N=torch.cat([each.finished_N for each in made]),
        logp_NT=stack_rows([each.logp_NT for each in made]),
        prompt_of_N=torch.cat([each.prompt_of_N + first for each, first in zip(made, before, strict=True)]),
        reward_N=torch.cat([each.reward_N for each in made if each.reward_N is not None]),
        correct_N=torch.cat([each.correct_N for each in made if each.correct_N is not None]),
        grader_failures=sum(each.grader_failures for each in made),
    )
