"""What checkpoints cost: their size, and their share of a run's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from copd.runs.runlog import JsonLines

SAVES = "checkpoints.jsonl"
"""The file of a run folder that holds size and time of each checkpoint; it is never cut back."""
ACCEPTED = 0.05
"""Share of the time between checkpoints that writing them may take."""
NOTICED_SECONDS = 10.0
"""What this process may spend on checkpoints in all, whatever their share."""


class Saving:
    """The time that the checkpoints of this process have taken, and the time between them."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self.save_seconds = self.between_saves_seconds = 0.0
        self._log = JsonLines(path)
        self._clock = clock
        self._began = self._ended = clock()
        self._told = False

    def begins(self) -> None:
        """All branches stand still for a checkpoint."""
        self._began = self._clock()

    def ended(self, checkpoint: Path, steps_done: int) -> None:
        """The checkpoint is complete: note its bytes on disk, its seconds, and those since the one before it."""
        between, now = self._began - self._ended, self._clock()
        took, self._ended = now - self._began, now
        self.save_seconds += took
        self.between_saves_seconds += between
        size = sum(file.stat().st_size for file in checkpoint.iterdir())
        times = {"save_seconds": round(took, 3), "between_saves_seconds": round(between, 3)}
        self._log.write({"steps_done": steps_done, "bytes": size, **times})

    def warning(self) -> str | None:
        """What to say, once, when checkpoints have come to take too much of the time."""
        too_much = self.save_seconds > max(NOTICED_SECONDS, ACCEPTED * self.between_saves_seconds)
        if self._told or not too_much:
            return None
        self._told = True
        times = f"{self.save_seconds:.0f} s for {self.between_saves_seconds:.0f} s between them"
        return f"checkpoints take more than {ACCEPTED:.0%} of the time: {times}; raise checkpoint.every_steps"

    def as_record(self) -> dict[str, float]:
        """The seconds of all checkpoints, and of the time between them, since this process began."""
        return {"save_seconds": self.save_seconds, "between_saves_seconds": self.between_saves_seconds}

    def close(self) -> None:
        """No checkpoint will follow."""
        self._log.close()
