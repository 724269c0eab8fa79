"""Calls that may hang, crash or use up memory, in processes that are killed and replaced. At most one call is lost."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from typing import Any

from copd.rewards.adapters import UserVerifier
from copd.rewards.worker import OUT_OF_MEMORY, Attempt, attempt, prepare, watch
from copd.system.processes import Forked

PRELOADED = "copd.rewards.server"
"""The module imported once by the server that the processes are forked from, so that a replacement starts at once."""
STALL_SECONDS = 90
"""Seconds beyond the deadline. If no call ends for so long, the pool itself counts as broken."""
PATIENCE = 3
"""How many pools in a row may break without any call having ended."""
CLOSING_SECONDS = 5
Call = tuple[Any, ...]
"""A function of a module that grading processes can import, and the function's arguments."""


class KillablePool:
    """Processes for calls with a deadline. The first call starts them; `close` ends them and all that they started.

    A call that exceeds its deadline is killed with its process. A call that kills its process is lost with it. A call
    that raises gives its error. No other call is affected. The pool may be used from several threads.
    """

    def __init__(
        self, workers: int, deadline_seconds: float, memory_gib: float, verifiers: Sequence[UserVerifier] = ()
    ) -> None:
        self._workers = workers
        self._deadline = deadline_seconds
        self._memory_gib = memory_gib
        self._verifiers = tuple(verifiers)
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def run(self, calls: Sequence[Call]) -> list[Attempt]:
        """The outcome of each call, in order. Without calls no process is started."""
        found: dict[int, Attempt] = {}
        broken = 0
        while len(found) < len(calls) and broken < PATIENCE:
            before = len(found)
            self._try({i: call for i, call in enumerate(calls) if i not in found}, found)
            broken = broken + 1 if len(found) == before else 0
        return [
            found.get(i, Attempt(None, "grading processes do not start, or end at once")) for i in range(len(calls))
        ]

    def _try(self, calls: dict[int, Call], found: dict[int, Attempt]) -> None:
        """Fill `found` until all calls have ended or the pool breaks."""
        running = self._start()
        number_of: dict[Future[Attempt], int] = {}
        ended: SimpleQueue[Future[Attempt]] = SimpleQueue()
        try:
            for i, call in calls.items():
                future = running.pool.schedule(attempt, args=call, timeout=self._deadline)
                number_of[future] = i
                future.add_done_callback(ended.put)
            for _ in calls:
                first = ended.get(timeout=self._deadline + STALL_SECONDS)
                found[number_of[first]] = self._outcome(first)
        except (RuntimeError, Empty):  # BrokenProcessPool, and pebble's word for a pool that has broken before
            self._drop(running)

    def _outcome(self, future: Future[Attempt]) -> Attempt:
        """The outcome of a call. Raises BrokenProcessPool if the pool itself broke."""
        from pebble import ProcessExpired

        try:
            return future.result()
        except TimeoutError:
            return Attempt(None, f"took longer than {self._deadline:g} seconds")
        except ProcessExpired as error:
            if error.exitcode == OUT_OF_MEMORY:
                return Attempt(None, f"needed more than {self._memory_gib:g} GiB of memory")
            return Attempt(None, f"its process ended with exit status {error.exitcode}")

    def _start(self) -> _Running:
        with self._lock:
            if self._running is None:
                self._running = _Running(self._workers, int(self._memory_gib * 2**30), self._verifiers)
            return self._running

    def _drop(self, running: _Running) -> None:
        with self._lock:
            if self._running is running:
                self._running = None
        running.stop()

    def close(self) -> None:
        """End all processes. A later call starts new ones."""
        with self._lock:
            running, self._running = self._running, None
        if running:
            running.stop()


class _Running:
    """A pool of pebble, and the process that watches over its workers.

    The pool is also stopped when its process ends. The watch ends once its registry is closed; before that, Python
    would wait for a watch that does not listen to signals yet.
    """

    def __init__(self, workers: int, memory_bytes: int, verifiers: tuple[UserVerifier, ...]) -> None:
        from pebble import ProcessPool

        context = Forked()
        context.set_forkserver_preload([PRELOADED])
        receiver, self._registry = multiprocessing.Pipe(duplex=False)
        self._watch = context.Process(target=watch, args=(receiver,), daemon=True)
        self._watch.start()
        receiver.close()
        arguments: tuple[Connection, int, tuple[UserVerifier, ...]] = (self._registry, memory_bytes, verifiers)
        self.pool = ProcessPool(workers, initializer=prepare, initargs=arguments, context=context)
        self._stopping = threading.Lock()
        self._at_exit = Finalize(None, self.stop, exitpriority=0)

    def stop(self) -> None:
        with self._stopping:
            if self._registry.closed:
                return
            self.pool.stop()
            self.pool.join()
            self._registry.close()
            self._at_exit.cancel()
            self._watch.join(CLOSING_SECONDS)
