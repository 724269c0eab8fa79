"""Processes that do not import the script that started the training, so that the script needs no `__main__` guard.

Also the start and the end of a process, the memory that it holds, and the cores that it may use.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing import forkserver, parent_process, popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

STATUS = Path("/proc/self/status")
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""
_main_module = threading.Lock()


@contextmanager
def importing() -> Iterator[None]:
    """Imports in here are not interrupted by collections of garbage.

    Later collections skip the objects that the imports made.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _without_script() -> Iterator[None]:
    """A process that is started in here does not import the script that runs."""
    with _main_module:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


class _WithoutScript(BaseProcess):
    def start(self) -> None:
        with _without_script():
            super().start()


class _ForkedProcess(_WithoutScript, ForkServerProcess):
    pass


class Forked(ForkServerContext):
    """Processes forked from a server that has imported the preloaded modules."""

    Process = _ForkedProcess


_server = forkserver.ForkServer()


def begin_to_import(module: str) -> None:
    """Start the server that `Served` processes are forked from. It imports the module while this process goes on."""
    with _without_script():
        _server.set_forkserver_preload([module])
        _server.ensure_running()


class _ServedPopen(popen_forkserver.Popen):
    def _launch(self, process: Any) -> None:
        """As in the class above, but for the server."""
        described = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process._name), described)
            reduction.dump(process, described)
        finally:
            set_spawning_popen(None)
        self.sentinel, writer = _server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        held = os.dup(writer), self.sentinel
        self.finalizer = util.Finalize(self, util.close_fds, held)  # type: ignore[attr-defined]
        with open(writer, "wb") as pipe:
            pipe.write(described.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class _ServedProcess(_ForkedProcess):
    @staticmethod
    def _Popen(process: Any) -> _ServedPopen:
        return _ServedPopen(process)


class Served(ForkServerContext):
    """Processes forked from a server of their own, which has imported the module of `begin_to_import`."""

    Process = _ServedProcess


def end_with_starter(seconds: float) -> None:
    """Called in a `Served` process: it ends so many seconds after the process that started it, even in a computation.

    Its parent, as the system sees it, is the server.
    """
    starter = parent_process()
    assert starter

    def watch() -> None:
        starter.join()
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """Called in a new process: it gets SIGTERM when the thread that started it ends, however that ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


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


def usable_cores() -> int:
    """How many cores this process may use: those it is pinned to; where the system does not tell, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
