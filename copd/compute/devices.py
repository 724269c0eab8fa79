"""What log-probs are computed with, by the type of the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from copd.compute.flex import Blocks
from copd.compute.layout import Layout
from copd.compute.tf32 import LinearInTf32
from copd.compute.windows import windows_of


class Seen(Protocol):
    """What each of the X tokens of a packed sequence attends to."""

    def attend(self, query_1HXD: Tensor, key_1KXD: Tensor, value_1KXD: Tensor, scaling: float) -> Tensor:
        """Attention to what each token sees. K key heads serve H query heads. [1, X, H, D]."""
        ...


class Computing(NamedTuple):
    """The ways of one type of device.

    attention  makes what each token of a packed sequence attends to
    head       the context of the output head where the layers before it are in bfloat16
    logits     most logits that exist at once
    """

    attention: Callable[[Layout, torch.device], Seen]
    head: Callable[[], AbstractContextManager[object]]
    logits: int


CARD = Computing(Blocks, LinearInTf32, 1 << 28)
"""1 GiB of logits in float32."""
OTHER = Computing(windows_of, nullcontext, 1 << 25)
"""128 MiB of logits in float32."""
WAYS = {"cuda": CARD}
"""By the type of the device. Every other type has `OTHER`."""


def computing_on(device: torch.device) -> Computing:
    """The ways of this device."""
    return WAYS.get(device.type, OTHER)
