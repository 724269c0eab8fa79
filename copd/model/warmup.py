"""The supervised warm-up that turns a fresh tiny model into a base of partial skill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.model.policy import Policy
from copd.types import Problem, Rollouts, Split, Task


@dataclass(frozen=True)
class WarmupPlan:
    """Steps of supervised learning on worked solutions: `problems_per_step` of each task a step, cosine decay."""

    steps: int = 1000
    problems_per_step: int = 32
    learning_rate: float = 3e-3
    seed: int = 1_000_003


def demonstrations(policy: Policy, problems: Sequence[Problem]) -> Rollouts:
    """The worked solutions as rollouts, one row per problem. Each ends with the end token."""
    tokenizer = policy.tokenizer
    rows = [[*tokenizer(p.solution, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for p in problems]
    longest = max(map(len, rows))
    tokens_NT = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    mask_NT = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return Rollouts(
        problems=tuple(problems),
        tokens_NT=tokens_NT,
        mask_NT=mask_NT,
        finished_N=torch.ones(len(rows), dtype=torch.bool),
        logp_NT=torch.zeros(mask_NT.shape),
        prompt_of_N=torch.arange(len(rows)),
        temperature=1.0,
    )


def warm_up(policy: Policy, tasks: Sequence[Task], plan: WarmupPlan, report: Callable[[int, int], None]) -> None:
    """Maximise the likelihood of worked solutions: the surrogate at ratio 1 and advantage 1.

    `report(step, steps)` is called after every step.
    """
    learner = Learner(policy, learning_rate=plan.learning_rate, weight_decay=0.01)
    for step in range(plan.steps):
        ramp, decay = min(1.0, (step + 1) / 50), 0.5 * (1 + math.cos(math.pi * step / plan.steps))
        first = step * plan.problems_per_step
        parts = []
        for task in tasks:
            problems = [task.problem(Split.TRAIN, first + i) for i in range(plan.problems_per_step)]
            rollouts = demonstrations(policy, problems)
            parts.append(GrpoObjective(task.name, rollouts, 1 / len(tasks), torch.ones(len(problems))))
        learner.step(parts, learning_rate=plan.learning_rate * ramp * max(decay, 0.02))
        report(step, plan.steps)
