"""Handles on branches and models of this process, which run one call after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from copd.branches.actor import Actor
from copd.branches.handle import Handle

T = TypeVar("T")
COMPUTING = frozenset({"answer_first", "collect", "inspect", "native_gradients", "rate", "score", "update"})
"""Calls that need the model's device."""
QUIET = 10
"""So often the loop goes round after a call until all who waited for the call's result have made their next one."""


class Turns:
    """Turns of models that share a device: one is on the device and computes, the others wait on the CPU.

    A model's turn lasts while calls of it are waiting, since an exchange of models costs more than most calls.
    """

    def __init__(self) -> None:
        self._there: dict[str, Actor] = {}
        self._calls = 0

    def wait(self, actor: Actor) -> None:
        """Send a new model to the CPU, where it waits for its first turn."""
        actor.move("cpu")

    async def come(self, actor: Actor) -> None:
        """Wait until the model that is on the device has no more calls, and take the turn."""
        calls, quiet = self._calls, 0
        while quiet < QUIET:
            await asyncio.sleep(0)
            quiet = quiet + 1 if calls == self._calls else 0
            calls = self._calls
            if self._there.get(str(actor.home)) in (None, actor):
                break
        self._calls += 1
        self.take(actor)

    def take(self, actor: Actor) -> None:
        """Bring a model to its device, after the one that was there has gone to the CPU."""
        there = self._there.get(str(actor.home))
        if there is actor:
            return
        if there is not None:
            there.move("cpu")
            torch.cuda.empty_cache()
        actor.move(actor.home)
        self._there[str(actor.home)] = actor


def local_handle(actor: Actor, turns: Turns | None = None) -> Handle:
    """A handle on an actor or branch of this process.

    A call that computes first lets other waiting calls run. With `turns` it takes the device instead, and the model
    keeps the device until another model needs it.
    """
    return _handle(actor, partial(_in_turn, actor, turns))


def threaded_handle(actor: Actor, line: ThreadPoolExecutor, turns: Turns) -> Handle:
    """A handle on an actor that computes in the threads of `line`, while calls to other processes go on.

    The actor is on its device from a call that computes until another actor takes its turn.
    """
    return _handle(actor, partial(_on_thread, actor, line, turns))


def _handle(actor: Actor, carry: Any) -> Handle:
    return Handle(actor.name, actor.policy.allowed_tokens, carry, actor.capability)


async def _in_turn(actor: Actor, turns: Turns | None, method: str, *arguments: Any, **options: Any) -> Any:
    if method in COMPUTING:
        await (asyncio.sleep(0) if turns is None else turns.come(actor))
    return getattr(actor, method)(*arguments, **options)


async def _on_thread(
    actor: Actor, line: ThreadPoolExecutor, turns: Turns, method: str, *arguments: Any, **options: Any
) -> Any:
    def call() -> Any:
        if method in COMPUTING:
            turns.take(actor)
        return getattr(actor, method)(*arguments, **options)

    return await asyncio.get_running_loop().run_in_executor(line, call)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also if a loop is already running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
