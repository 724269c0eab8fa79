"""Processes that do not import the script that started the training: that script needs no guard for it."""

from __future__ import annotations

import resource
import sys
import threading
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

STATUS = Path("/proc/self/status")
_main_module = threading.Lock()


class _WithoutScript(BaseProcess):
    def start(self) -> None:
        with _main_module:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = script


class _ForkedProcess(_WithoutScript, ForkServerProcess):
    pass


class _SpawnedProcess(_WithoutScript, SpawnProcess):
    pass


class Forked(ForkServerContext):
    """Processes forked from a server that has imported what it was told to."""

    Process = _ForkedProcess


class Spawned(SpawnContext):
    """Processes that begin from nothing."""

    Process = _SpawnedProcess


def peak_bytes() -> int:
    """The most memory that this process has held until now.

    Linux is asked for its own count: `ru_maxrss` of a new process begins at that of the one that started it.
    """
    if STATUS.is_file():
        counts = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in counts:
            return int(counts["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
