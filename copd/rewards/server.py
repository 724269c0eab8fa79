"""Imported first by the server that grading processes are forked from, and by no other process.

A SIGTERM to all processes of a run is meant for the main process. The server ignores it: if the server ended, every
running call would end too and earn 0.
"""

import signal
import sys
from types import TracebackType

from copd.rewards import mathematics as mathematics  # imported once, for all grading processes


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell an error, but for that of a process which begins while its pool ends, whose locks are gone."""
    if not issubclass(kind, FileNotFoundError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
signal.signal(signal.SIGTERM, signal.SIG_IGN)
