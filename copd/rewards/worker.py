"""The code inside grading processes. Imports no torch, so that a process starts fast and stays small."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from copd.rewards import adapters
from copd.rewards.adapters import Sample, UserVerifier
from copd.rewards.equality import judged
from copd.rewards.verifiers import Verdict

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WATCH_SECONDS = 0.1
"""Seconds between two looks of the watch at the workers."""
OUT_OF_MEMORY = 97
"""Exit status of a worker that needed more memory than it may have."""
LONGEST_REASON = 200
"""Most characters kept of an error message."""


class Attempt(NamedTuple):
    """The value that a function returned, or the reason why it returned none."""

    value: Any
    failure: str = ""


_loaded: dict[str, Attempt] = {}


def attempt(function: Callable[..., Any], *arguments: Any) -> Attempt:
    """Call a function that may raise anything, exit or fork. Only this process returns, no fork of it.

    If memory runs out, the process ends: memory that the function keeps would make every later call fail.
    """
    owner = os.getpid()
    try:
        return Attempt(function(*arguments))
    except MemoryError:
        os._exit(OUT_OF_MEMORY if os.getpid() == owner else 0)
    except BaseException as error:
        return Attempt(None, _reason(error))
    finally:
        if os.getpid() != owner:
            os._exit(0)


def prepare(registry: Connection, memory_bytes: int, verifiers: Sequence[UserVerifier]) -> None:
    """Let this process be killed with all that it started; limit its memory; load the user's files.

    pebble ends a process by SIGTERM, so nothing here may catch it. The watch gets this process's group and kills what
    is left of the group.
    """
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    registry.send_bytes(str(os.getpid()).encode())
    registry.close()
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    sys.dont_write_bytecode = True
    limit_memory(memory_bytes)
    _loaded.update({verifier.name: attempt(adapters.load, verifier) for verifier in verifiers})


def limit_memory(memory_bytes: int) -> None:
    """Let allocations of private memory beyond this limit fail, if the system can. Reservations do not count."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def watch(registry: Connection) -> None:
    """Kill the rest of a worker's process group when the worker ends, and all groups when the pool or its owner ends.

    The watch is its own process. It outlives the training process by a moment, however that was killed.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    workers: set[int] = set()
    try:
        while True:
            if registry.poll(WATCH_SECONDS):
                workers.add(int(registry.recv_bytes()))
            gone = {worker for worker in workers if not _exists(worker)}
            _end(gone)
            workers -= gone
    except EOFError:
        pass  # no one is left who could start a worker
    finally:
        _end(workers)


def _end(groups: set[int]) -> None:
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def describe(verifier: UserVerifier) -> str:
    """The convention that a user's function follows. Raises whatever loading the function raises, or ValueError."""
    return adapters.recognise(adapters.load(verifier))


def verify_mathematically(answer: str, reference: str) -> Verdict:
    """What is equal by kinds, with math-verify between expressions."""
    from copd.rewards.mathematics import equivalent

    right = bool(judged(answer, reference, equivalent))
    return Verdict(float(right), right)


def verify_by_user(name: str, convention: str, sample: Sample) -> Verdict:
    """A user's function, loaded by `prepare`, on one response. Raises RuntimeError if it could not be loaded."""
    function, failure = _loaded[name]
    if failure:
        raise RuntimeError(failure)
    return adapters.verdict(function, convention, sample)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:  # the worker has ended, or its number now belongs to another user's process
        return False
    return True


def _reason(error: BaseException) -> str:
    try:
        message = " ".join(str(error).split())
    except BaseException:
        message = "with a message that cannot be read"
    return f"{type(error).__name__}: {message}"[:LONGEST_REASON].encode("ascii", "backslashreplace").decode()
