"""What a batch says of its responses: the metrics of a part before anything is learned from it."""

from __future__ import annotations

import torch

from copd.maths.advantages import group_deviations, has_signal
from copd.types import Part, Rollouts


def describe(part: Part, trained: Rollouts) -> dict[str, float]:
    """Metrics of a part's rollouts: rewards, accuracy, length, share truncated, graders' failures, groups with signal.

    The signal is that of the rollouts `trained` on; all other metrics are over all rows. If the problems are of several
    tasks, the reward of each task is added as `PART/reward/TASK`. A refilled batch also has its tries, and the share of
    all groups that have signal and are trained on.
    """
    rollouts = part.rollouts
    assert rollouts.reward_N is not None
    assert rollouts.correct_N is not None
    assert trained.reward_N is not None
    signal_M = has_signal(trained.reward_N, trained.prompt_of_N)
    sampled, signal = len(rollouts.problems), len(trained.prompt_of_N[signal_M].unique())
    groups = rollouts.groups or sampled
    kept = {} if rollouts.groups is None else {"tries": sampled / groups, "groups_kept": signal / sampled}
    return {
        f"{part.name}/reward": float(rollouts.reward_N.mean()),
        f"{part.name}/reward_std": float(group_deviations(rollouts.reward_N, rollouts.prompt_of_N).mean()),
        **{f"{part.name}/reward/{task}": value for task, value in reward_by_task(rollouts).items()},
        f"{part.name}/accuracy": float(rollouts.correct_N.float().mean()),
        f"{part.name}/groups_with_signal": signal / groups,
        **{f"{part.name}/{name}": value for name, value in kept.items()},
        f"{part.name}/response_length": float(rollouts.mask_NT.sum(-1).float().mean()),
        f"{part.name}/truncated_rate": 1 - float(rollouts.finished_N.float().mean()),
        f"{part.name}/grader_failures": float(rollouts.grader_failures),
    }


def reward_by_task(rollouts: Rollouts) -> dict[str, float]:
    """The mean reward of each task in the batch; empty if all problems are of one task."""
    assert rollouts.reward_N is not None
    tasks = [rollouts.problems[p].task for p in rollouts.prompt_of_N.tolist()]
    names = sorted(set(tasks))
    rewards = {name: rollouts.reward_N[torch.tensor([task == name for task in tasks])] for name in names}
    return {name: float(each.mean()) for name, each in rewards.items() if len(names) > 1}
