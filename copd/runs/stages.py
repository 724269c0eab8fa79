"""What a run does now, and the seconds that it spends before the first step and after the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stage:
    """One thing that a run does: its name, how many parts it has (0: one), and how many of them are done."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0

    def advance(self) -> None:
        """One more part is done."""
        self.done += 1

    @property
    def told(self) -> str:
        """Such as `evaluating, 3 of 12`."""
        return f"{self.name}, {self.done} of {self.total}" if self.total > 1 else self.name


class Stages:
    """The stages that a run is in, the last one innermost, and the seconds of those that ended outside of training."""

    def __init__(self) -> None:
        self.within: list[Stage] = []
        self.training = False
        self._seconds: dict[str, float] = {}

    @property
    def told(self) -> str:
        """The innermost stage in words; empty between two."""
        return self.within[-1].told if self.within else ""

    @contextmanager
    def stage(self, name: str, total: int, ended: Callable[[str, float], None]) -> Iterator[Callable[[], None]]:
        """The block is this stage. Yields what to call after each of its parts; `ended` gets its seconds."""
        stage, began = Stage(name, total), time.perf_counter()
        self.within.append(stage)
        try:
            yield stage.advance
        finally:
            self.within.remove(stage)
        seconds = time.perf_counter() - began
        if not self.training and not self.within:
            self.spent(name, seconds)
        ended(name, seconds)

    def spent(self, name: str, seconds: float) -> None:
        """Seconds of a stage before the first step or after the last."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def summary(self) -> str:
        """The stages since the last summary, the longest first; empty if there were none."""
        longest = sorted(self._seconds.items(), key=lambda stage: -stage[1])
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest)
        total = sum(self._seconds.values())
        self._seconds.clear()
        return f"{total:.1f} s ({told})" if told else ""
