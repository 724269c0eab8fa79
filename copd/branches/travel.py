"""What crosses between the processes of a run: tensors as bytes, and problems by their address.

Who gets an address makes the problem anew from its own tasks, so no pixel crosses. The fingerprint of the problem comes
along: a file that has changed, or is another one on another machine, is an error, and no other problem is scored in the
place of the one that was answered. A problem without an address crosses whole.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from copd.errors import DataError
from copd.types import Address, Problem

Draw = Callable[[Address], Problem]
"""Makes the problem at an address."""


def to_bytes(value: object) -> bytes:
    """A value for another process of the run."""
    content = io.BytesIO()
    _Writer(content).dump(value)
    return content.getvalue()


def from_bytes(content: bytes, draw: Draw) -> Any:
    """The value of `to_bytes` in another process of the run.

    Raises DataError for a problem that is not the same here, and whatever `draw` raises.
    """
    return _Reader(io.BytesIO(content), draw).load()


class _Writer(ForkingPickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Problem) and value.address is not None:
            return value.address, value.fingerprint
        return None

    def reducer_override(self, value: Any) -> Any:
        """Tensors travel as bytes, not as handles on shared memory."""
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        return _tensor, (flat.view(torch.uint8).numpy(), value.dtype, tuple(value.shape))


class _Reader(pickle.Unpickler):
    """Reads what another process of the same run has written, and nothing else."""

    def __init__(self, content: io.BytesIO, draw: Draw) -> None:
        super().__init__(content)
        self._draw = draw

    def persistent_load(self, reference: Any) -> Problem:
        address, fingerprint = reference
        problem = self._draw(address)
        if problem.fingerprint != fingerprint:
            raise DataError(
                f"{problem.id}: problem {address.index} of {address.capability} ({address.split.value}) is not the "
                "same in two processes of the run; a file of rows, pictures or videos has changed, or differs between "
                "machines"
            )
        return problem


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(content).view(dtype).reshape(shape)
