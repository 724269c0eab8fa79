"""Our side of the benchmarks: branches, problems, steps, and how our shortcuts are turned off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import copd.compute.batching
import copd.compute.decode
import copd.compute.logprobs
import copd.model.learner
from copd.assemble.assembled import Assembled
from copd.assemble.branches import make_branch
from copd.branches.branch import Branch
from copd.model.objectives import GrpoObjective
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.rewards.grading import Grader, Grades, Response
from copd.tasks.digits import CELL, Digits
from copd.types import Part, Problem, Rollouts, Split, Task

KINDS = ("text", "image", "video")
OF_CHAT, OF_FRAMES = 8, 7
"""Tokens of the chat's frame, and of the timestamp and the frame of two pictures of a video."""
FILLER = "Read all of this with care before you answer. "


@dataclass(frozen=True)
class Size:
    """How much a step does, and how often it is timed. `short_tokens`: of a response to a prompt ten times longer."""

    prompts: int = 16
    rollouts: int = 8
    max_new_tokens: int = 36
    short_tokens: int = 12
    repetitions: int = 7

    @property
    def rows(self) -> int:
        """Responses in a step."""
        return self.prompts * self.rollouts


def all_rows(objective: GrpoObjective) -> Tensor:
    """In the place of `GrpoObjective.rows_with_gradient`: groups without signal are computed too."""
    return torch.arange(len(objective.rollouts.tokens_NT))


def every_row(rollouts: Rollouts, rows_M: Tensor, key_N: Tensor | None = None) -> Any:
    """In the place of `batching.distinct_rows`: each row stands for itself."""
    return copd.compute.batching.Distinct(rows_M, torch.ones_like(rows_M), torch.arange(len(rows_M)))


def every_prefix(prefix_R: Tensor, token_R: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """In the place of `decode.distinct_prefixes`: each row goes on by itself, in the order of their parents."""
    order_R = prefix_R.argsort(stable=True)
    return prefix_R[order_R], token_R[order_R], order_R.argsort()


SHORTCUTS: tuple[tuple[Any, str, Any], ...] = (
    (GrpoObjective, "rows_with_gradient", all_rows),
    (copd.model.learner, "distinct_rows", every_row),
    (copd.compute.logprobs, "distinct_rows", every_row),
    (copd.compute.decode, "distinct_prefixes", every_prefix),
)
"""The package's shortcuts that depend on the data: where each is called from, its name, and what skips nothing."""


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """Every row is computed, whatever was sampled.

    Computing a prompt once for its rows stays: it depends on the shape of the batch, not on the data.
    """
    with ExitStack() as stack:
        for owner, name, function in SHORTCUTS:
            stack.enter_context(patch.object(owner, name, function))
        yield


@dataclass(frozen=True)
class Lengthened:
    """A task whose prompts have about `tokens` tokens: the text is filled up, pictures are repeated downwards.

    A video also: its frames grow. What is asked for no longer makes sense; only its size matters.
    """

    task: Digits
    tokens: int

    @property
    def name(self) -> str:
        return self.task.name

    def problem(self, split: Split, index: int) -> Problem:
        problem = self.task.problem(split, index)
        room = max(0, self.tokens - len(problem.prompt) - OF_CHAT)
        if problem.kind == "text":
            filler = FILLER * (room // len(FILLER) + 1)
            return replace(problem, prompt=filler[:room] + problem.prompt)
        if problem.kind == "image":
            (image,) = problem.images
            return replace(problem, images=(np.tile(image, (max(1, room // (image.shape[1] // CELL)), 1, 1)),))
        (video,) = problem.videos
        return replace(problem, videos=(np.tile(video, (1, max(1, room // (len(video) // 2) - OF_FRAMES), 1, 1)),))


class Coin:
    """A grader that rewards about half of all responses, each by its own text alone: any batch has groups with signal.

    For prompts that make no sense, where a real verifier would reward nothing and our step would have nothing to do.
    """

    def grade(self, problems_N: Sequence[Problem], responses_N: Sequence[Response]) -> Grades:
        heads = [sum(each.text.encode()) % 2 == 0 for each in responses_N]
        return Grades([float(side) for side in heads], heads, 0)


def digits(kind: str) -> Digits:
    """The demo's task of this kind."""
    return Digits(kind, conflict=1.0)  # type: ignore[arg-type]


def demo(max_new_tokens: int) -> Recipe:
    """The recipe `demo-paper` with responses of at most so many tokens."""
    return load_recipe("demo-paper", [f"sampling.max_new_tokens={max_new_tokens}"])


def make_branches(tasks: Mapping[str, Task], max_new_tokens: int, grader: Any = None) -> list[Branch]:
    """A branch of `demo-paper` for each task, all of them beginning as the demo's base."""
    made = Assembled(demo(max_new_tokens), print, tasks=tasks)
    made.base, made.grader = made.loaded, grader or Grader()
    return [make_branch(made, name, index) for index, name in enumerate(tasks)]


def grpo_step(branch: Branch, step: int, size: Size) -> dict[str, float]:
    """Sample, grade and train on the step's problems; the metrics."""
    return branch.update([Part("native", branch.collect(branch.capability, step, size.prompts, size.rollouts))])


def opd_step(student: Branch, teacher: Branch, step: int, size: Size) -> dict[str, float]:
    """Sample on the peer's prompts, have the peer score them, train towards it; the metrics."""
    lessons = student.collect(teacher.capability, step, size.prompts, size.rollouts)
    return student.update([Part("opd", lessons, 1.0, teacher.score(lessons), teacher.version)])


def problems_of(task: Task, step: int, size: Size) -> list[Problem]:
    """The problems of one step in a branch's own capability, rendered anew at every call."""
    return [task.problem(Split.TRAIN, step * size.prompts + i) for i in range(size.prompts)]
