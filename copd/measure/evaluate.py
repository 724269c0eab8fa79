"""Accuracy of models on capabilities, with intervals over the problems."""

from __future__ import annotations

import dataclasses
import hashlib
from asyncio import gather
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from copd.handles import Answering
from copd.maths.intervals import mean_of_scores, pass_at_k, stratified_mean, wilson
from copd.types import Problem, Rollouts, Split, digest_of

AVERAGE = "average"
"""Stands beside the capabilities in a table, and is shown where there are several."""


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval over the problems."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """One cell of a result table. `capability` is a task's name or "average", which counts each task alike."""

    model: str
    capability: str
    problems: int
    greedy: Estimate
    pass_at: dict[int, Estimate] = dataclasses.field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def accuracies(records: Sequence[dict[str, Any]]) -> list[Accuracy]:
    """The table from records of `Accuracy.as_record`, whether read from JSON or not."""
    return [
        Accuracy(
            r["model"],
            r["capability"],
            r["problems"],
            Estimate(**r["greedy"]),
            {int(k): Estimate(**estimate) for k, estimate in r["pass_at"].items()},
        )
        for r in records
    ]


@dataclass(frozen=True, eq=False)
class Answers:
    """Right answers of one model to the problems of one task: per problem, greedy and among `samples` samples.

    `problems` is a digest of the problems. If two models have the same digest, they answered the same problems.
    """

    model: str
    capability: str
    problems: str
    greedy_P: Tensor
    samples: int
    sampled_P: Tensor

    def as_record(self) -> dict[str, Any]:
        return {**vars(self), "greedy_P": self.greedy_P.tolist(), "sampled_P": self.sampled_P.tolist()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Answers:
        """The answers from a record of `as_record`, whether read from JSON or not."""
        scores = {name: torch.tensor(record[name], dtype=torch.float64) for name in ("greedy_P", "sampled_P")}
        return cls(**{**record, **scores})


async def evaluate(
    models: Sequence[Answering],
    tasks: Sequence[str],
    split: Split,
    *,
    problems: int,
    pass_at: Sequence[int],
    done: Callable[[], None] = lambda: None,
) -> list[Accuracy]:
    """Greedy accuracy and pass@k of every model on every task and on their average. `done` is as for `answer`."""
    return tabulate(await answer(models, tasks, split, problems=problems, pass_at=pass_at, done=done), pass_at)


async def answer(
    models: Sequence[Answering],
    tasks: Sequence[str],
    split: Split,
    *,
    problems: int,
    pass_at: Sequence[int],
    done: Callable[[], None] = lambda: None,
) -> list[Answers]:
    """The answers of every model to the first problems of every task: once greedy, and as often as pass@k needs.

    All models are asked at the same time. Each answers one task after the other. `done` is called after each task of
    each model.
    """
    samples = max(pass_at, default=0)

    async def of(model: Answering) -> list[Answers]:
        found = []
        for task in tasks:
            greedy = await model.answer_first(split, task, problems, 1, greedy=True)
            greedy_P, sampled_P = right_answers(greedy), torch.zeros(0)
            if samples:
                sampled_P = right_answers(await model.answer_first(split, task, problems, samples, greedy=False))
            found.append(Answers(model.name, task, digest(greedy.problems), greedy_P, samples, sampled_P))
            done()
        return found

    return [answers for found in await gather(*map(of, models)) for answers in found]


async def answer_as_one(models: Sequence[Answering], tasks: Sequence[str], split: Split, **asked: Any) -> list[Answers]:
    """`answer` of models that are one model. They share the tasks out, and what one answers counts for all."""
    by_name = {model.name: model for model in models}
    parts = share_out(list(by_name), tasks)
    found = await gather(*(answer([by_name[name]], own, split, **asked) for name, own in parts.items()))
    of_task = {each.capability: each for part in found for each in part}
    return [dataclasses.replace(of_task[task], model=name) for name in by_name for task in tasks]


def share_out(names: Sequence[str], tasks: Sequence[str]) -> dict[str, list[str]]:
    """The tasks by who does them, in turn; without the names for which none is left."""
    return {name: list(tasks[i :: len(names)]) for i, name in enumerate(names) if i < len(tasks)}


async def answer_in_rounds(
    models: Sequence[Answering],
    rounds: Iterable[Sequence[Answering]],
    tasks: Sequence[str],
    split: Split,
    **asked: Any,
) -> list[Answers]:
    """The same where only the models of a round are asked at the same time. `rounds` has each of `models` once."""
    found = [each for together in rounds for each in await answer(together, tasks, split, **asked)]
    return [each for model in models for each in found if each.model == model.name]


def tabulate(answers: Sequence[Answers], pass_at: Sequence[int]) -> list[Accuracy]:
    """The table of graded answers: models in the given order, each with its tasks and their average."""
    table = []
    for model in dict.fromkeys(a.model for a in answers):
        own = [a for a in answers if a.model == model]
        chances = {k: [pass_at_k(a.sampled_P, a.samples, k) for a in own] for k in pass_at}
        for i, a in enumerate(own):
            count = len(a.greedy_P)
            share = Estimate(float(a.greedy_P.mean()), *wilson(float(a.greedy_P.sum()), count))
            of_k = {k: Estimate(*mean_of_scores(scores[i])) for k, scores in chances.items()}
            table.append(Accuracy(model, a.capability, count, share, of_k))
        average = Estimate(*stratified_mean([a.greedy_P for a in own]))
        of_k = {k: Estimate(*stratified_mean(scores)) for k, scores in chances.items()}
        table.append(Accuracy(model, AVERAGE, sum(len(a.greedy_P) for a in own), average, of_k))
    return table


def columns_of(capabilities: Sequence[str]) -> list[str]:
    """The columns of a table: the capabilities, and their average if there are several."""
    own = [name for name in dict.fromkeys(capabilities) if name != AVERAGE]
    return [*own, AVERAGE] if len(own) > 1 else own


def digest(problems: Sequence[Problem]) -> str:
    """Hex digest of problems: questions, pictures, frames and answers, in their order."""
    found = hashlib.sha256()
    for problem in problems:
        media = [*problem.images, *problem.videos]
        asked = (problem.prompt, problem.answer, problem.verifier, problem.fps, [item.shape for item in media])
        found.update(repr(asked).encode())
        if problem.messages or problem.chat_template_kwargs:
            found.update(repr((problem.messages, sorted(problem.chat_template_kwargs.items()))).encode())
        for item in media:
            found.update(digest_of(item))
    return found.hexdigest()


def right_answers(rollouts: Rollouts) -> Tensor:
    """Right answers per problem. [P] float64."""
    assert rollouts.correct_N is not None
    counts = torch.zeros(len(rollouts.problems), dtype=torch.float64)
    return counts.index_add(0, rollouts.prompt_of_N, rollouts.correct_N.double())
