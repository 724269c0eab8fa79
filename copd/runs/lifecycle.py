"""The beginning and the end of a run: it is alone in its folder, and a signal costs it no step."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from filelock import FileLock, Timeout

from copd.errors import RecipeError
from copd.runs.checkpoint import CHECKPOINTS, step_folders
from copd.runs.runlog import RUN_MANIFEST
from copd.system.signals import Ended, handled_by

LOCK = ".lock"
"""The file of a run folder that a process locks while it trains. A process that does not crash removes it."""
PATIENCE = 0.5
"""Seconds for which a locked folder is tried again: `in_use` holds a lock for a moment."""
BUSY = "another process trains into it; let it end, or give another folder"
GOES_ON = "--resume goes on from the last checkpoint"
SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the run folder and lock it against other processes. The system unlocks it however this process ends.

    Folders that were made for this and hold nothing else are removed again. Raises RecipeError if another process has
    locked the folder, if it cannot be written, or if its name is not UTF-8: safetensors reads no weights from there.
    """
    lock = FileLock(folder / LOCK, timeout=PATIENCE)
    try:
        str(folder).encode()
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RecipeError(f"--out {folder}: {BUSY}") from error
    except FileExistsError as error:
        raise RecipeError(f"--out {folder}: is a file; give a folder that is new or empty") from error
    except UnicodeEncodeError as error:
        raise RecipeError(f"--out {str(folder)!a}: is not UTF-8; give a name that is") from error
    except OSError as error:
        raise RecipeError(f"--out {folder}: cannot be written: {error}") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while locked: a process that has opened it sees that its name is gone
        lock.release()
        with suppress(OSError):
            for each in new:
                each.rmdir()


def in_use(folder: Path) -> bool:
    """Whether a process has locked the folder now. The file that a killed process leaves behind is no lock."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def saved_in(folder: Path) -> str:
    """What a run that a signal ends can go on from."""
    if step_folders(folder / CHECKPOINTS):
        return GOES_ON
    began = (folder / RUN_MANIFEST).is_file()
    return "no checkpoint was saved yet" + ("; --resume begins at the first step" if began else "")


class Stopped(Ended):
    """A signal has ended the run."""


class Stop:
    """Handles SIGTERM and SIGINT during a run, that is within the `with` block.

    Outside of `after_step`, the first signal raises Stopped at once. Inside, the first signal is only noted. The
    branches stop after the furthest step that any of them has begun, so that all stand at the same step, which the
    observer saves. Then `leave_if_asked` raises Stopped. A second signal ends the process at once. Only the main thread
    gets signals; in another thread nothing is caught.
    """

    def __init__(self, tell: Callable[[str], None], saved: Callable[[], str] = lambda: GOES_ON) -> None:
        """`saved` says what was saved for a run that goes on; `tell` takes that, once a signal has ended the run."""
        self._tell, self._saved = tell, saved
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
            self._handlers.enter_context(handled_by(self._came))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()
        if isinstance(error, Stopped):
            self._tell(f"stopped by {error.name}; {self._saved()}")

    @contextmanager
    def after_step(self, start: int) -> Iterator[None]:
        """The context of training from step `start` on, in a running event loop."""
        self._furthest = start
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
        self.leave_if_asked()

    def may_begin(self, step: int) -> bool:
        """Whether a branch may begin a step. After a signal it may only begin a step that another branch has begun."""
        if self.asked and step > self._furthest:
            return False
        self._furthest = max(self._furthest, step)
        return True

    def last_of(self, steps: range) -> int:
        """The step at which all branches stand after the end of `steps`, or after the last that they may make."""
        return min(steps[-1], self._furthest)

    def met_after(self, step: int) -> None:
        """All branches have made this step and go on. They make at least one more."""
        self._furthest = step + 1

    def leave_if_asked(self) -> None:
        """Raise Stopped if a signal has come."""
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
        # a handler must not print: it may have interrupted a print
        self._loop.call_soon_threadsafe(
            self._tell,
            f"{self._stopped.name}: stopping after this step, with a checkpoint; a second signal ends it at once",
        )
