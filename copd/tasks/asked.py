"""The problems that every model is asked. They are made once, however often they are answered."""

from __future__ import annotations

from collections.abc import Mapping

from copd.types import Problem, Split, Task

REMEMBERED_BYTES = 2**30
"""Most bytes of pictures and videos that are remembered. Further problems are made anew each time."""


class Asked:
    """The first problems of several tasks. Every call gives the same objects as long as there is room for them."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        self._known: dict[tuple[Split, str], list[Problem]] = {}
        self._room = REMEMBERED_BYTES

    def first(self, split: Split, task: str, count: int) -> list[Problem]:
        """The problems 0 to `count` - 1 of a task."""
        known = self._known.get((split, task), [])
        new = [self._tasks[task].problem(split, i) for i in range(len(known), count)]
        size = sum(item.nbytes for problem in new for item in (*problem.images, *problem.videos))
        if size <= self._room:
            self._room -= size
            self._known[split, task] = [*known, *new]
        return [*known, *new][:count]
