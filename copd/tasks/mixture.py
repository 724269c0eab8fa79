"""The union of several tasks, for mixed RLVR."""

from __future__ import annotations

from dataclasses import dataclass

from copd.types import Problem, Split, Task


@dataclass(frozen=True)
class Mixture:
    """Deals out its tasks' problems in turn; a `copd.types.Task`. Any K consecutive indices hold one of each."""

    name: str
    tasks: tuple[Task, ...]

    def problem(self, split: Split, index: int) -> Problem:
        return self.tasks[index % len(self.tasks)].problem(split, index // len(self.tasks))
