"""Problems by their address. Those that every model is asked are made once, however often they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from copd.types import Address, Problem, Split, Task

REMEMBERED_BYTES = 2**30
"""Most bytes of pixels that are remembered with their problems. Further problems are made anew each time."""


class Asked:
    """The problems of several tasks, for one thread at a time.

    A problem of validation or test is the same object at every call as long as there is room for it.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self._known: dict[Address, Problem] = {}
        self._room = REMEMBERED_BYTES
        self._one_at_a_time = Lock()

    def first(self, split: Split, task: str, count: int) -> list[Problem]:
        """The problems 0 to `count` - 1 of a task."""
        return [self.at(Address(task, split, index)) for index in range(count)]

    def at(self, address: Address) -> Problem:
        """The problem that the task of a capability makes at an address, which the problem then knows."""
        with self._one_at_a_time:
            if address in self._known:
                return self._known[address]
            problem = self.tasks[address.capability].problem(address.split, address.index).at(address)
            size = problem.held_bytes
            if address.split is not Split.TRAIN and size <= self._room:
                self._room -= size
                self._known[address] = problem
            return problem
