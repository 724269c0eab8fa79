"""How a run begins and ends: alone in its folder, and at a signal without losing a step."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from filelock import FileLock, Timeout

from copd.errors import RecipeError
from copd.system.signals import SIGNALS, Ended, handled_by

LOCK = ".lock"
"""The file of a run folder that is locked while a process trains into it; it is gone when that process ends well."""
SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the run folder, and keep other processes from training into it; the system frees it however this one ends.

    Folders that were made for this and hold nothing else are removed again. Raises RecipeError where another process
    has it, or where it cannot be written.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RecipeError(
            f"--out {folder}: another process trains into it; let it end, or give another folder"
        ) from error
    except OSError as error:
        raise RecipeError(f"--out {folder}: cannot be written: {error}") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: who has opened it sees that it has no name
        lock.release()
        with suppress(OSError):
            for each in new:
                each.rmdir()


class Stopped(Ended):
    """A signal has ended the run."""


class Stop:
    """SIGTERM and SIGINT while a run lives, which is as long as the `with` block.

    A second one ends the process at once. Outside of `after_step` the first raises Stopped where it finds the run.
    Inside, it is only noted: the branches stop after the furthest step that any of them has begun, so that they stand
    at one step, which the observer saves; then `leave_if_asked` raises it. Signals reach the main thread alone;
    elsewhere nothing is caught.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._handlers = ExitStack()
        self._stopped: Stopped | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._furthest = 0

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._stopped is not None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._handlers.enter_context(handled_by(self._came, SIGNALS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()
        if isinstance(error, Stopped):
            self._tell(f"stopped by {error.name}; --resume goes on from the last checkpoint")

    @contextmanager
    def after_step(self, start: int) -> Iterator[None]:
        """Training from step `start` on, in a running event loop."""
        self._furthest = start
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
        self.leave_if_asked()

    def may_begin(self, step: int) -> bool:
        """Whether a branch may begin a step: after a signal, only one that another branch has begun."""
        if self.asked and step > self._furthest:
            return False
        self._furthest = max(self._furthest, step)
        return True

    def last_of(self, steps: range) -> int:
        """The step at which all branches stand that have come to the end of `steps`, or as far as they may."""
        return min(steps[-1], self._furthest)

    def met_after(self, step: int) -> None:
        """All branches have made this step and go on: they make one more at least."""
        self._furthest = step + 1

    def leave_if_asked(self) -> None:
        """Raise Stopped where a signal has come."""
        if self._stopped:
            raise self._stopped

    def _came(self, number: int, _: FrameType | None) -> None:
        if self._stopped and not self._stopped.lost:
            if sys.stdout.isatty():  # a live view hides it
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
            os._exit(128 + number)
        self._stopped = Stopped(number)
        if self._loop is None:
            raise self._stopped
        # a handler must not print: it may have come in the middle of that
        self._loop.call_soon_threadsafe(
            self._tell,
            f"{self._stopped.name}: stopping after this step, with a checkpoint; a second signal ends it at once",
        )
