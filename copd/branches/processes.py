"""Branches in processes of their own on this machine, so that calls to different branches run at once.

Each process builds its own branch and answers the calls that come over its pipe, one after the other. Responses stay in
the process that sampled them until its branch's next update. The algorithm passes on a reference to them, and a teacher
gets a copy. Responses that a teacher gave itself leave its process when it scores them, and its student gets a copy. A
process ends with the run that started it, however the run ends.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from copd.branches.actor import Actor
from copd.branches.handle import Carry, Handle
from copd.branches.patience import Patience
from copd.branches.travel import Draw, from_bytes, to_bytes
from copd.errors import CopdError, LostBranchError, ProcessError
from copd.system.processes import Memory, Served, end_with_starter, peak
from copd.types import Part, Rollouts

Make = Callable[..., AbstractContextManager[Actor]]
"""Builds the branch, given a function for warnings. The branch's process enters it, and leaves it when it ends."""
END = b""
"""The message after which a process ends."""
ENDING_SECONDS = 5
"""Seconds in which a process that is no longer needed may end by itself."""


@dataclass
class Kept:
    """Responses that stayed in the process of the branch that sampled them, until they have left it as `content`."""

    owner: BranchProcess
    number: int
    content: bytes | None = None


class BranchProcess:
    """The process of a branch. It carries the calls of the branch's handle in the order in which they are made.

    A call raises what the method raised in the process, and ProcessError if the process has ended.
    """

    peak: Memory
    """The most memory that the process had held up to its last answer."""
    process: int
    """The number of the process on this machine."""

    def __init__(self, name: str, make: Make, warn: Callable[[str], None], draw: Draw) -> None:
        """`draw` makes the problems of the branch's responses anew in this process."""
        self.name = name
        self._warn, self._draw = warn, draw
        context = Served()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make), name=f"copd branch {name}")
        self._process.start()
        assert self._process.pid is not None
        self.process = self._process.pid
        theirs.close()
        self._line = ThreadPoolExecutor(1)
        self._ask: Carry = self._exchanged
        self._busy = True
        self._ready: Future[Any] = self._line.submit(self._receive)

    def handle(self, patience: Patience | None = None) -> Handle:
        """The handle on the branch, once the branch is built. Raises whatever building the branch raised."""
        if patience:
            patience.built(self.name, self._is_built)
            self._ask = patience.applied(self.name, self._exchanged)
        capability, allowed_tokens = self._ready.result()
        return Handle(self.name, allowed_tokens, self._carry, capability)

    def close(self) -> None:
        """End the process, even in the middle of a call; that call then fails."""
        try:
            if not self._busy:
                with suppress(ProcessError, OSError):
                    self._pipe.send_bytes(END)
                    if self._pipe.poll(ENDING_SECONDS):
                        self._receive()
                self._process.join(ENDING_SECONDS)
        finally:
            self._process.kill()
            self._process.join()
            self._line.shutdown()
            self._pipe.close()

    def _is_built(self, seconds: float) -> bool:
        return bool(wait([self._ready], seconds).done)

    async def _carry(self, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "score":
            (kept,) = arguments
            if kept.owner is self and kept.content is None:
                kept.content = await self._ask("taken", kept.number)
            arguments = (kept.content or await kept.owner._ask("content", kept.number),)
        elif method == "update":
            arguments = (self._numbered(*arguments),)
        value = await self._ask(method, *arguments, **options)
        return Kept(self, value) if method in ("collect", "replay") else value

    def _numbered(self, parts: Sequence[Part]) -> list[Any]:
        """The parts, with rollouts replaced by their numbers or, if they have left their process, by their content.

        Raises ValueError for responses that are still in another branch's process.
        """
        references: list[Any] = [part.rollouts for part in parts]
        if any(kept.owner is not self and kept.content is None for kept in references):
            raise ValueError(f"branch {self.name} cannot be trained on responses that another branch keeps")
        return [
            replace(part, rollouts=kept.number if kept.content is None else kept.content)
            for part, kept in zip(parts, references, strict=True)
        ]

    async def _exchanged(self, method: str, *arguments: Any, **options: Any) -> Any:
        message = (method, arguments, options)
        return await asyncio.get_running_loop().run_in_executor(self._line, self._exchange, message)

    def _exchange(self, message: object) -> Any:
        self._busy = True
        try:
            self._pipe.send_bytes(to_bytes(message))
        except OSError as error:
            raise self._gone() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        self._busy = False
        value, failure, warnings, self.peak = from_bytes(answer, self._draw)
        for warning in warnings:
            self._warn(warning)
        if failure is not None:
            raise failure
        return value

    def _gone(self) -> LostBranchError:
        self._process.join(ENDING_SECONDS)
        status = self._process.exitcode
        how = f"killed by {signal.Signals(-status).name}" if status and status < 0 else f"exit status {status}"
        if status == -signal.SIGKILL:
            how += ", as the system does when memory runs out; `copd plan` tells what a recipe needs"
        return LostBranchError(f"branch {self.name}: its process has ended ({how})")


def serve(pipe: Connection, make: Make) -> None:
    """Build the branch, then answer calls until `END` comes or the pipe closes: the main function of a process.

    An answer is (value, exception or None, warnings since the last answer, most memory held). The process ignores
    signals that go to all processes of a run: the main process ends the others. Without a main process a call is not
    finished.
    """
    end_with_starter(ENDING_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings: list[str] = []

    def answer(value: Any, failure: BaseException | None = None) -> None:
        pipe.send_bytes(to_bytes((value, failure, warnings, peak())))
        warnings.clear()

    try:
        with make(warnings.append) as branch:
            desk = _Desk(branch)
            answer((branch.capability, branch.policy.allowed_tokens))
            while (message := pipe.recv_bytes()) != END:
                try:
                    value = desk.result(message)
                except Exception as error:
                    answer(None, _portable(error))
                else:
                    answer(value)
        answer(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run, or its main process, has ended
    except Exception as error:
        answer(None, _portable(error))


class _Desk:
    """A branch as its process serves it. Responses that it sampled stay here, under numbers, until its next update."""

    def __init__(self, branch: Any) -> None:
        self._branch = branch
        self._kept: dict[int, Rollouts] = {}
        self._numbers = count()

    def result(self, message: bytes) -> Any:
        method, arguments, options = self._opened(message)
        return getattr(self if hasattr(self, method) else self._branch, method)(*arguments, **options)

    def collect(self, *asked: Any, **options: Any) -> int:
        self._kept[number := next(self._numbers)] = self._branch.collect(*asked, **options)
        return number

    def replay(self, place: int) -> int:
        self._kept[number := next(self._numbers)] = self._branch.replay(place)
        return number

    def content(self, number: int) -> bytes:
        return to_bytes(self._kept[number])

    def taken(self, number: int) -> bytes:
        content = self.content(number)
        del self._kept[number]
        return content

    def score(self, content: bytes) -> Any:
        return self._branch.score(self._opened(content))

    def update(self, parts: Sequence[Any]) -> dict[str, float]:
        metrics = self._branch.update([replace(part, rollouts=self._found(part.rollouts)) for part in parts])
        self._kept.clear()
        return metrics

    def _found(self, rollouts: int | bytes) -> Rollouts:
        return self._kept[rollouts] if isinstance(rollouts, int) else self._opened(rollouts)

    def _opened(self, content: bytes) -> Any:
        return from_bytes(content, self._branch.asked.at)


def _portable(error: Exception) -> Exception:
    """The exception in a form that can travel, with the place where it was raised."""
    if isinstance(error, CopdError | OSError):
        with suppress(Exception):  # a library's own error may not be read again from what is written of it
            pickle.loads(pickle.dumps(error))
            return error
    portable = RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note("in the branch's process:\n" + "".join(traceback.format_exception(error)))
    return portable
