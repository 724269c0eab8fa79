"""Accuracy of models on fields, with intervals over the problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from copd.maths.intervals import pass_at_k, stratified_mean, wilson
from copd.types import Rollouts, Split

AVERAGE = "average"


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval over the problems."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """One cell of a result table. `field` is a task's name or "average", each task counting alike."""

    model: str
    field: str
    problems: int
    greedy: Estimate
    pass_at: dict[int, Estimate] = dataclasses.field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def accuracies(records: Sequence[dict[str, Any]]) -> list[Accuracy]:
    """The table that was written as `Accuracy.as_record`, through JSON or not."""
    return [
        Accuracy(
            r["model"],
            r["field"],
            r["problems"],
            Estimate(**r["greedy"]),
            {int(k): Estimate(**estimate) for k, estimate in r["pass_at"].items()},
        )
        for r in records
    ]


class Answering(Protocol):
    """Whatever can answer a task's problems: a branch, or a model that is only evaluated."""

    name: str

    async def validate(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts: ...


async def evaluate(
    models: Sequence[Answering], tasks: Sequence[str], split: Split, *, problems: int, pass_at: Sequence[int]
) -> list[Accuracy]:
    """Greedy accuracy and pass@k of every model on every task and on their average."""
    table = []
    for model in models:
        greedy, sampled = {}, {}
        for task in tasks:
            greedy[task] = _correct(await model.validate(split, task, problems, 1, greedy=True))
            if pass_at:
                sampled[task] = _correct(await model.validate(split, task, problems, max(pass_at), greedy=False))
        chances = {
            k: {task: pass_at_k(correct_P, max(pass_at), k) for task, correct_P in sampled.items()} for k in pass_at
        }
        for task in tasks:
            share = Estimate(float(greedy[task].mean()), *wilson(float(greedy[task].sum()), problems))
            of_k = {k: Estimate(*stratified_mean([scores[task]])) for k, scores in chances.items()}
            table.append(Accuracy(model.name, task, problems, share, of_k))
        average = Estimate(*stratified_mean(list(greedy.values())))
        of_k = {k: Estimate(*stratified_mean(list(scores.values()))) for k, scores in chances.items()}
        table.append(Accuracy(model.name, AVERAGE, problems * len(tasks), average, of_k))
    return table


def _correct(rollouts: Rollouts) -> Tensor:
    """Right answers per problem. [P] float64."""
    assert rollouts.correct_N is not None
    counts = torch.zeros(len(rollouts.problems), dtype=torch.float64)
    return counts.index_add(0, rollouts.prompt_of_N, rollouts.correct_N.double())
