"""The union of several tasks, for mixed RLVR."""

from __future__ import annotations

from dataclasses import dataclass

from copd.types import Problem, Split, Task


@dataclass(frozen=True)
class Mixture:
    """A `copd.types.Task` that gives problems of its K tasks in turn. Any K consecutive indices hold one of each."""

    name: str
    tasks: tuple[Task, ...]

    def problem(self, split: Split, index: int) -> Problem:
        return self.tasks[index % len(self.tasks)].problem(split, index // len(self.tasks))
