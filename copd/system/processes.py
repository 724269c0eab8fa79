"""Processes that do not import the script that started the training, so that the script needs no `__main__` guard."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
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
    """Processes forked from a server that has imported the preloaded modules."""

    Process = _ForkedProcess


class Spawned(SpawnContext):
    """Processes that start from a fresh interpreter."""

    Process = _SpawnedProcess


@dataclass(frozen=True)
class Memory:
    """Bytes of the machine's memory, and of each of its GPUs in their order."""

    machine: int
    gpus: tuple[int, ...] = ()


def summed(held: Iterable[Memory]) -> Memory:
    """The sum over several processes. A process that computes on no GPU may give no GPUs."""
    each = list(held)
    gpus = zip_longest(*(one.gpus for one in each), fillvalue=0)
    return Memory(sum(one.machine for one in each), tuple(map(sum, gpus)))


def peak() -> Memory:
    """The most memory that this process has held so far; of each GPU, the most that torch has held."""
    torch = sys.modules.get("torch")  # a process without torch holds no memory of a GPU
    if torch is None or not torch.cuda.is_initialized():
        return Memory(_peak_bytes())
    return Memory(_peak_bytes(), tuple(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))))


def _peak_bytes() -> int:
    """The most of the machine's memory that this process has held.

    On Linux the count of /proc is used, since `ru_maxrss` of a new process begins at its parent's.
    """
    if STATUS.is_file():
        counts = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in counts:
            return int(counts["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
