"""The ranks of a branch: processes that compute one branch together, each on a device of its own.

All ranks make the same calls in the same order and hold all rollouts. What depends on chance or on the world outside,
such as grading, is done by rank 0 alone. Samples and scores are computed in shares, which all ranks then exchange.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn import functional as F

from copd.compute.batching import stack_rows, take_rows
from copd.types import Problem, Rollouts, Score

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` ranks of its branch. A branch of one process has one rank, and no `mesh`."""

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    def share(self, length: int) -> range:
        """The places of this rank among so many; shares differ by one at most and follow each other."""
        return range(length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        found: list[Any] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(found, value)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all ranks. All raise what making it raises."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = make()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        made, failed = told
        if failed is not None:
            raise failed
        return made


ALONE = Ranks()
"""The only rank of a branch."""


@dataclass(frozen=True)
class Meeting:
    """Where a process meets the other ranks of its branch: rank 0 listens on `address`, IP:PORT."""

    address: str
    rank: int
    count: int


@contextmanager
def joined(meeting: Meeting, device: torch.device, minutes: float) -> Iterator[Ranks]:
    """This process as a rank of a branch on a device, while the block lives.

    Ranks that meet on the loopback address listen there only. A rank that waits longer than so many minutes for the
    others raises RuntimeError.
    """
    host, _, port = meeting.address.rpartition(":")
    if ip_address(host).is_loopback:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback())
    first, timeout = meeting.rank == 0, timedelta(minutes=minutes)
    listening = socket.create_server((host, int(port))).detach() if first else None  # by itself it listens everywhere
    store = dist.TCPStore(host, int(port), meeting.count, first, timeout, master_listen_fd=listening)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=meeting.rank,
        world_size=meeting.count,
        timeout=timeout,
    )
    try:
        yield Ranks(meeting.rank, meeting.count, init_device_mesh(device.type, (meeting.count,)))
    finally:
        if dist.is_initialized():  # an engine that samples may have ended all groups with its own
            dist.destroy_process_group()


def _loopback() -> str:
    """The name of this machine's loopback interface."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def sampled(
    ranks: Ranks,
    sample: Callable[..., Rollouts],
    problems: Sequence[Problem],
    *,
    rollouts_per_prompt: int,
    generator: torch.Generator | None,
    max_new_tokens: int,
    **asked: Any,
) -> Rollouts:
    """`sample` for all problems, of which each rank answers its share.

    A policy's own model draws a number for each row and position. Each rank passes over those of the rows before its
    own, so that the responses are those of one rank.
    """
    asked |= {"rollouts_per_prompt": rollouts_per_prompt, "max_new_tokens": max_new_tokens}
    if ranks.count == 1:
        return sample(problems, generator=generator, **asked)
    share = ranks.share(len(problems))
    if generator is not None:
        torch.rand(share.start * rollouts_per_prompt * max_new_tokens, generator=generator, dtype=torch.float64)
    own = sample(problems[share.start : share.stop], generator=generator, **asked) if share else None
    rows = None if own is None else (own.tokens_NT, own.mask_NT, own.finished_N, own.logp_NT, own.temperature, own.cut)
    tokens, mask, finished, logp, temperature, cut = zip(*filter(None, ranks.gathered(rows)), strict=True)
    return Rollouts(
        tuple(problems),
        stack_rows(tokens),
        stack_rows(mask),
        torch.cat(finished),
        stack_rows(logp),
        torch.arange(len(problems)).repeat_interleave(rollouts_per_prompt),
        temperature[0],
        cut=cut[0],
    )


def scored(
    ranks: Ranks, score: Callable[..., Score], rollouts: Rollouts, *, ids_NTK: Tensor | None = None, **asked: Any
) -> Score:
    """`score` of all rollouts, of which each rank scores its share."""
    if ranks.count == 1:
        return score(rollouts, ids_NTK=ids_NTK, **asked)
    share, length = ranks.share(len(rollouts.tokens_NT)), rollouts.tokens_NT.shape[1]
    own = None
    if share:
        part = take_rows(rollouts, torch.tensor(share))
        ids = None if ids_NTK is None else ids_NTK[share.start : share.stop, : part.tokens_NT.shape[1]]
        own = score(part, ids_NTK=ids, **asked)
    found = [each for each in ranks.gathered(own) if each is not None]
    return replace(found[0], **{field.name: _together(found, field.name, length) for field in fields(Score)})


def _together(found: Sequence[Score], name: str, length: int) -> Any:
    """A field of the scores of all rows, padded to so many tokens."""
    values = [getattr(score, name) for score in found]
    if not isinstance(values[0], Tensor):
        return values[0]
    if name.endswith("_MV"):
        return torch.cat(values)
    return torch.cat([F.pad(v, (*[0, 0] * (v.ndim - 2), 0, length - v.shape[1])) for v in values])
