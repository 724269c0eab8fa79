"""Branches in processes of their own on this machine, so that calls to different branches run at once.

Each process builds its branch for itself and answers the calls that come over its pipe, one after the other. Responses
stay where they were sampled until that branch's next update: what the algorithm passes on is a reference, and a teacher
is sent a copy. A process ends with its handle, and with the process of the run, however that ends.
"""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copd.branches.branch import Actor, Branch
from copd.branches.local import LocalActor, LocalBranch
from copd.errors import CopdError, ProcessError
from copd.system.processes import Memory, Spawned, peak
from copd.types import Part, Rollouts, Score, Split

Make = Callable[[Callable[[str], None]], AbstractContextManager[Branch]]
"""Builds the branch, told whom to warn; called in the branch's process, and left when that process ends."""
ENDING_SECONDS = 5
"""How long a process that is no longer needed may take to end by itself."""


@dataclass(frozen=True)
class Kept:
    """Responses that stayed in the process of the branch that sampled them."""

    owner: ProcessBranch
    number: int


class ProcessBranch:
    """A `BranchHandle` on a branch in a process of its own; its calls are made in the order in which they are asked.

    Every call raises what it raised there, and ProcessError where the process has ended. `wait` before the first call.
    """

    capability: str
    allowed_tokens: int
    peak: Memory
    """The most memory that the process had held when it last answered."""

    def __init__(self, name: str, make: Make, warn: Callable[[str], None]) -> None:
        self.name = name
        self._warn = warn
        context = Spawned()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make), name=f"copd branch {name}")
        self._process.start()
        theirs.close()
        self._line = ThreadPoolExecutor(1)
        self._busy = True
        self._ready: Future[Any] = self._line.submit(self._receive)

    def wait(self) -> None:
        """Until the branch is there. Raises what building it raised."""
        self.capability, self.allowed_tokens = self._ready.result()

    def close(self) -> None:
        """End the process, in the middle of a call too, which then fails."""
        try:
            if not self._busy:
                with suppress(ProcessError, OSError):
                    _send(self._pipe, None)
                    if self._pipe.poll(ENDING_SECONDS):
                        self._receive()
                self._process.join(ENDING_SECONDS)
        finally:
            self._process.kill()
            self._process.join()
            self._line.shutdown()
            self._pipe.close()

    async def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Any:
        """A reference to the responses."""
        return Kept(self, await self._ask("collect", task, step, prompts, rollouts_per_prompt))

    async def score(self, rollouts: Any) -> Score:
        content = await rollouts.owner._ask("content", rollouts.number)
        return await self._ask("score", content)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        references: list[Any] = [part.rollouts for part in parts]
        if any(kept.owner is not self for kept in references):
            raise ValueError(f"branch {self.name} cannot be trained on responses of another branch")
        numbered = [replace(part, rollouts=kept.number) for part, kept in zip(parts, references, strict=True)]
        return await self._ask("update", numbered)

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        return await self._ask("answer_first", split, task, count, rollouts_per_prompt, greedy=greedy)

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        return await self._ask("inspect", rollouts, k, ids_NTK)

    async def texts(self, rollouts: Rollouts) -> list[str]:
        return await self._ask("texts", rollouts)

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        return await self._ask("pieces", rollouts, row)

    async def counts(self) -> dict[str, float]:
        return await self._ask("counts")

    async def weights(self) -> Mapping[str, Tensor]:
        return await self._ask("weights")

    async def state(self) -> dict[str, Tensor]:
        return await self._ask("state")

    async def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        await self._ask("load_weights", weights)

    async def load_state(self, tensors: dict[str, Tensor], counts: Mapping[str, float]) -> None:
        await self._ask("load_state", tensors, counts)

    async def save(self, folder: Path, card: str) -> None:
        await self._ask("save", folder, card)

    async def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        message = (method, arguments, options)
        return await asyncio.get_running_loop().run_in_executor(self._line, self._exchange, message)

    def _exchange(self, message: object) -> Any:
        self._busy = True
        try:
            _send(self._pipe, message)
        except OSError as error:
            raise self._gone() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            value, failure, warnings, self.peak = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        self._busy = False
        for warning in warnings:
            self._warn(warning)
        if failure is not None:
            raise failure
        return value

    def _gone(self) -> ProcessError:
        self._process.join(ENDING_SECONDS)
        status = self._process.exitcode
        how = f"killed by {signal.Signals(-status).name}" if status and status < 0 else f"exit status {status}"
        return ProcessError(
            f"branch {self.name}: its process has ended ({how}); nothing that was saved is lost, --resume goes on from "
            "the last checkpoint"
        )


class ThreadActor(LocalActor):
    """An actor of this process that computes beside the calls to other processes, in the one thread of `line`."""

    def __init__(self, actor: Actor, line: ThreadPoolExecutor) -> None:
        super().__init__(actor)
        self._line = line

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        def answer() -> Rollouts:
            return self._actor.answer_first(split, task, count, rollouts_per_prompt, greedy=greedy)

        return await asyncio.get_running_loop().run_in_executor(self._line, answer)


def serve(pipe: Connection, make: Make) -> None:
    """The life of a branch's process: build the branch, answer calls until there is None, or nobody to call.

    An answer is (value, exception or None, warnings since the last one, most memory held). Signals to all processes
    of a run are for the first of them, which ends the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings: list[str] = []

    def answer(value: Any, failure: BaseException | None = None) -> None:
        _send(pipe, (value, failure, warnings, peak()))
        warnings.clear()

    try:
        with make(warnings.append) as branch:
            desk = _Desk(LocalBranch(branch))
            answer((branch.capability, branch.policy.allowed_tokens))
            while message := pipe.recv():
                method, arguments, options = message
                try:
                    value = asyncio.run(desk.call(method)(*arguments, **options))
                except Exception as error:
                    answer(None, _told(error))
                else:
                    answer(value)
        answer(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run has ended, or its process has
    except Exception as error:
        answer(None, _told(error))


class _Desk:
    """A branch as its process serves it: responses that it sampled stay here, under numbers, until its next update."""

    def __init__(self, branch: LocalBranch) -> None:
        self._branch = branch
        self._kept: dict[int, Rollouts] = {}
        self._numbers = count()

    def call(self, method: str) -> Callable[..., Any]:
        return getattr(self if hasattr(self, method) else self._branch, method)

    async def collect(self, *asked: Any) -> int:
        rollouts = await self._branch.collect(*asked)
        self._kept[number := next(self._numbers)] = rollouts
        return number

    async def content(self, number: int) -> bytes:
        return bytes(_ByValue.dumps(self._kept[number]))

    async def score(self, content: bytes) -> Score:
        return await self._branch.score(_ByValue.loads(content))

    async def update(self, parts: Sequence[Any]) -> dict[str, float]:
        own = [replace(part, rollouts=self._kept[part.rollouts]) for part in parts]
        metrics = await self._branch.update(own)
        self._kept.clear()
        return metrics


class _ByValue(ForkingPickler):
    """What travels between our own processes. Tensors go as their bytes, not as handles on memory that is shared."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        return _tensor, (flat.view(torch.uint8).numpy(), value.dtype, tuple(value.shape))


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(content).view(dtype).reshape(shape)


def _send(pipe: Connection, message: object) -> None:
    pipe.send_bytes(_ByValue.dumps(message))


def _told(error: Exception) -> Exception:
    """An exception that can travel, with the place where it was raised."""
    if isinstance(error, CopdError | OSError):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("in the branch's process:\n" + "".join(traceback.format_exception(error)))
    return told
