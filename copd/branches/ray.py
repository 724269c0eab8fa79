"""Branches as actors of Ray, on this machine or on the nodes of a cluster.

Each actor builds its own branch and answers its calls one after the other. A branch of several ranks is as many actors,
which get the same calls; the first of them answers for all. Rollouts and scores go into Ray's object store, and
this process passes on references to them: a teacher or a student takes them from there. All else comes back by value.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from copd.branches.handle import Handle
from copd.branches.patience import Patience
from copd.branches.processes import Make
from copd.branches.travel import Draw, from_bytes, to_bytes
from copd.compute.ranks import Meeting
from copd.errors import LostBranchError, ProcessError, first_line
from copd.system.cluster import are_there, got
from copd.system.processes import Memory, peak, summed
from copd.types import Part, Rollouts

WAITED_SECONDS = 20
"""After so long without room for a branch, the run says what it waits for."""
TOLD_SECONDS = 10
"""Time for Ray to tell that an actor has ended, once another rank of its branch has failed."""
GONE = (ActorDiedError, ActorUnavailableError)
KEPT = ("collect", "replay", "score")
"""The calls whose answer stays in the object store."""

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """Rollouts or a score in the object store, and the branch on whose node they are."""

    owner: str
    content: ray.ObjectRef[bytes]


@dataclass(frozen=True)
class Resources:
    """What each of the ranks of a branch asks of a node, and how long the cluster may take to find it."""

    cores: int
    gpus: int
    ranks: int = 1
    minutes: float = 10.0

    @property
    def of_a_rank(self) -> dict[str, float]:
        """By Ray's names."""
        return {"CPU": float(self.cores), **({"GPU": float(self.gpus)} if self.gpus else {})}

    def described(self) -> str:
        each = f"{self.cores} cores" + f" and {self.gpus} GPU" * bool(self.gpus)
        return each if self.ranks == 1 else f"{self.ranks} times {each}"


class RayBranch:
    """The actors of a branch, one for each rank. They get the calls of the branch's handle in the order of the calls.

    A call raises what the method raised in an actor, and ProcessError if an actor or its node has ended.
    """

    node: str
    """Ray's name for the node that the first actor is on."""
    process: int
    """The number of the first actor's process there."""

    def __init__(self, name: str, make: Make, warn: Callable[[str], None], resources: Resources, draw: Draw) -> None:
        """`draw` makes the problems of the branch's responses anew in this process."""
        self.name = name
        self._peaks = [Memory(0)] * resources.ranks
        self._warn, self._draw = warn, draw
        self._resources = resources
        self._group = placement_group([resources.of_a_rank] * resources.ranks, strategy="PACK")
        options = {
            "num_cpus": resources.cores,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "runtime_env": {"env_vars": {"LOCAL_RANK": "0"}},  # of the one card that Ray lets the actor see
        }
        served = ray.remote(_Served)
        places = [PlacementGroupSchedulingStrategy(self._group, rank) for rank in range(resources.ranks)]
        self._actors = [served.options(**options, scheduling_strategy=place).remote() for place in places]
        if resources.ranks == 1:
            self._ready = [self._actors[0].built.remote(make, os.getcwd())]
        else:
            address = self._actors[0].address.remote()  # Ray waits for it before it builds a rank
            ranks = [(rank, resources.ranks) for rank in range(resources.ranks)]
            pairs = zip(self._actors, ranks, strict=True)
            self._ready = [actor.built_as.remote(rank, address, make, os.getcwd()) for actor, rank in pairs]

    @property
    def peak(self) -> Memory:
        """The sum of the most memory that the process of each actor had held up to its last answer."""
        return summed(self._peaks)

    def handle(self, patience: Patience | None = None) -> Handle:
        """The handle on the branch, once the branch is built. Raises whatever building the branch raised.

        Raises ProcessError naming the branch if the cluster finds no room for it.
        """
        self._find_room()
        try:
            if patience:
                patience.built(self.name, self._is_built)
            answers = got(self._ready)
        except RayError as error:
            raise self._raised(error) from error
        capability, allowed_tokens, self.node, self.process = self._opened(answers)
        carry = patience.applied(self.name, self._carry) if patience else self._carry
        return Handle(self.name, allowed_tokens, carry, capability)

    def close(self) -> None:
        """End the actors, even in the middle of a call; that call then fails."""
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor)
        with suppress(RayError):
            remove_placement_group(self._group)

    def _is_built(self, seconds: float) -> bool:
        return are_there(self._ready, seconds)

    def _find_room(self) -> None:
        found, most = [self._group.ready()], 60 * self._resources.minutes
        soon, asked = min(WAITED_SECONDS, most), self._resources.described()
        try:
            try:
                got(found, soon)
            except GetTimeoutError:
                self._warn(
                    f"waits for {asked}, which no node of the Ray cluster has free yet; free in all: {self._free()}"
                )
                got(found, most - soon)
        except GetTimeoutError as error:
            raise ProcessError(
                f"branch {self.name}: asks for {asked}, which no node of the Ray cluster had free in "
                f"{self._resources.minutes:g} minutes; free in all: {self._free()}; where nodes take longer to start, "
                "raise backend.place_minutes"
            ) from error
        except RayError as error:
            raise ProcessError(f"branch {self.name}: Ray gives it no place: {first_line(error)}") from error

    def _free(self) -> str:
        left = ray.available_resources()
        return ", ".join(f"{kind} {left.get(kind, 0):g}" for kind in self._resources.of_a_rank)

    async def _carry(self, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "update":
            (parts,) = arguments
            given = [each for part in parts for each in (part.rollouts, part.teacher)]
            arguments = ([replace(part, rollouts=None, teacher=None) for part in parts], *given)
        sent = [_sent(value) for value in arguments]
        try:
            if method in KEPT:
                pairs = [actor.kept.remote(method, *sent, **options) for actor in self._actors]
                self._opened(await _of_all([answered for _, answered in pairs]))
                return Kept(self.name, pairs[0][0])
            if method == "update":
                answers = [actor.update.remote(*sent) for actor in self._actors]
            else:
                answers = [actor.call.remote(method, *sent, **options) for actor in self._actors]
            return self._opened(await _of_all(answers))
        except RayError as error:
            raise self._raised(error, [value for value in arguments if isinstance(value, Kept)]) from error

    def _opened(self, answers: Sequence[bytes]) -> Any:
        """What the first actor has answered. All have made the same calls, so it alone tells values and warnings."""
        (value, warnings, _), *_ = opened = [from_bytes(answer, self._draw) for answer in answers]
        self._peaks = [peak for _, _, peak in opened]
        for warning in warnings:
            self._warn(warning)
        return value

    def _raised(self, error: RayError, given: Sequence[Kept] = ()) -> Exception:
        """What the method raised, or what has become of the actor, or of the one that made what was given to it."""
        cause = error.cause if isinstance(error, RayTaskError) else None
        if isinstance(cause, Exception) and not isinstance(cause, RayError):
            return cause
        if isinstance(error, GONE):
            said = f"branch {self.name}: its actor has ended (killed, out of memory, or its node is gone)"
            return LostBranchError(said)
        lost = cause.object_ref_hex if isinstance(cause, ObjectLostError) else None
        for kept in given:
            if kept.content.hex() == lost:
                return LostBranchError(
                    f"branch {kept.owner}: its node is gone, with what branch {self.name} was to get"
                )
        return LostBranchError(f"branch {self.name}: Ray reports {type(error).__name__}: {first_line(error)}")


def _sent(value: Any) -> Any:
    """An argument as it goes to an actor, which gets the bytes that stand behind a reference."""
    if isinstance(value, Kept):
        return value.content
    return to_bytes(value) if isinstance(value, Rollouts) else value


async def _of_all(answers: Sequence[Awaitable[T]]) -> list[T]:
    """The answers of all ranks. An actor that has ended is why others fail, which may be told before it."""
    waited = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*waited)
    except RayError:
        done, _ = await asyncio.wait(waited, timeout=TOLD_SECONDS)
        if ended := [each for each in done if isinstance(each.exception(), GONE)]:
            ended[0].result()
        raise


class _Served:
    """A branch as its actor serves it. Every answer brings the warnings since the last one, and the peak of memory.

    A rank behind the first answers None in place of the value.
    """

    def __init__(self) -> None:
        self._answers = True
        self._warnings: list[str] = []
        self._life = ExitStack()

    def address(self) -> str:
        """A free port of this node, at which other actors reach this one."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as found:
            found.bind((host, 0))
            return f"{host}:{found.getsockname()[1]}"

    def built_as(self, rank: tuple[int, int], address: str, make: Make, folder: str) -> bytes:
        """Build one rank of the branch: its number, and how many there are, which meet at the address."""
        self._answers = rank[0] == 0
        return self.built(partial(make, meeting=Meeting(address, *rank)), folder)

    def built(self, make: Make, folder: str) -> bytes:
        """Build the branch. `folder` is that of the run, from which relative paths lead."""
        os.chdir(folder)
        self._branch: Any = self._life.enter_context(make(self._warnings.append))
        node = ray.get_runtime_context().get_node_id()
        return self._answer((self._branch.capability, self._branch.policy.allowed_tokens, node, os.getpid()))

    def call(self, method: str, *arguments: Any, **options: Any) -> bytes:
        return self._answer(self._called(method, *arguments, **options))

    @ray.method(num_returns=2)
    def kept(self, method: str, *arguments: Any, **options: Any) -> tuple[bytes, bytes]:
        made = self._called(method, *arguments, **options)
        return to_bytes(made if self._answers else None), self._answer(None)

    def update(self, parts: Sequence[Part], *given: bytes | None) -> bytes:
        """`given` are the rollouts and the teacher's score, None without a teacher, of each part in turn."""
        opened: list[Any] = [None if content is None else self._opened(content) for content in given]
        pairs = zip(parts, opened[::2], opened[1::2], strict=True)
        return self._answer(self._branch.update([replace(part, rollouts=r, teacher=t) for part, r, t in pairs]))

    def _called(self, method: str, *arguments: Any, **options: Any) -> Any:
        given = [self._opened(value) if isinstance(value, bytes) else value for value in arguments]
        return getattr(self._branch, method)(*given, **options)

    def _answer(self, value: Any) -> bytes:
        """In bytes, as between processes: tensors of a card are not told from those of the CPU."""
        warnings = list(self._warnings)
        self._warnings.clear()
        return to_bytes((value if self._answers else None, warnings, peak()))

    def _opened(self, content: bytes) -> Any:
        return from_bytes(content, self._branch.asked.at)
