"""SIGTERM and SIGINT as an exception that is never lost, wherever in the program it is raised."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS_TO_AGAIN = 0.05


class Ended(SystemExit):
    """A signal has ended the work. The exit status is 128 + the signal's number.

    As a SystemExit it passes through asyncio, and no `except Exception` catches it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.lost = False
        """Whether Python has dropped this exception; the signal is then sent again."""

    @property
    def name(self) -> str:
        """SIGTERM or SIGINT."""
        return signal.Signals(self.number).name


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGTERM and SIGINT go to `handler`, which may raise Ended, while the block lives, in the main thread.

    A signal that the process was started to ignore stays ignored: a shell lets its background jobs ignore SIGINT.

    Python drops an exception raised in a destructor or in the callback of a weak reference, and goes on. If that
    happens to an Ended, the same signal is sent again a moment later.
    """
    told_before = sys.unraisablehook

    def dropped(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, Ended):
            error.lost = True
            threading.Timer(SECONDS_TO_AGAIN, os.kill, (os.getpid(), error.number)).start()
        else:
            told_before(unraisable)

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = told_before
        for number, previous in before.items():
            signal.signal(number, previous)
