"""Attention among packed tokens: all tokens in one sequence without padding, each group of queries with its own keys.

Only the products of attention see padding; those of the layers, which are most of the work, have none. transformers
calls `attend` by the name `ATTENTION` where a model's configuration says so (its `AttentionInterface`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

ATTENTION = "copd_windows"


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """In here the language model's attention is the one that transformers knows by this name."""
    config = model.get_decoder().config
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


def attention_as_now(model: Any) -> tuple[Any, Any]:
    """Contexts for a layer's forward pass and for its repetition in the backward pass, whose attention is the same."""
    return nullcontext(), attention(model, model.get_decoder().config._attn_implementation)


class Window(NamedTuple):
    """B groups of up to T tokens, which attend to their own group and to what stands before it.

    token_BT   where in the sequence each token stands; anything in the padding
    real_BT    what is no padding
    sees_BTS   which of its S keys a token attends to; one at least, in the padding too
    after_B    the group of the first window whose keys stand before those of each group; None: nothing does
    """

    token_BT: Tensor
    real_BT: Tensor
    sees_BTS: Tensor
    after_B: Tensor | None = None


class Windows:
    """Windows that have each of X tokens once, except for those at the end of the sequence that nobody sees."""

    def __init__(self, windows: Sequence[Window], tokens: int, device: torch.device) -> None:
        there_Y = torch.cat([window.token_BT.flatten() for window in windows] + [torch.zeros(1, dtype=torch.long)])
        real_Y = torch.cat([window.real_BT.flatten() for window in windows] + [torch.zeros(1, dtype=torch.bool)])
        slot_X = torch.full((tokens,), len(there_Y) - 1)
        slot_X[there_Y[real_Y]] = real_Y.nonzero()[:, 0]
        self.there_Y, self.slot_X = there_Y.to(device), slot_X.to(device)
        self.each = tuple(windows)
        self.sees = [window.sees_BTS.to(device) for window in windows]
        self._added: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        self.after = [None if window.after_B is None else window.after_B.to(device) for window in windows]

    def added(self, group: int, dtype: torch.dtype) -> list[Tensor]:
        """What is added to the scores of each window, for `group` query heads one after the other. [B, 1, group T, S].

        The same for all layers, and computed for the first.
        """
        if (group, dtype) not in self._added:
            self._added[group, dtype] = [
                torch.zeros(sees.shape, dtype=dtype, device=sees.device)
                .masked_fill_(~sees, -torch.inf)
                .repeat(1, group, 1)[:, None]
                for sees in self.sees
            ]
        return self._added[group, dtype]

    def split(self, states_1HXD: Tensor) -> list[Tensor]:
        """Queries, keys or values of each window. [B, T, H, D]."""
        taken_YHD = _Taken.apply(states_1HXD[0].transpose(0, 1), self.there_Y, self.slot_X)
        shapes = [window.token_BT.shape for window in self.each]
        parts = taken_YHD.split([*(shape.numel() for shape in shapes), 1])
        return [part.unflatten(0, shape) for part, shape in zip(parts[:-1], shapes, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse, of results [B, T, H, D]. [1, X, H, D]."""
        last_1HD = parts[0].new_zeros(1, *parts[0].shape[2:])
        return _Put.apply(torch.cat([*(part.flatten(0, 1) for part in parts), last_1HD]), self.slot_X)[None]


class _Taken(torch.autograd.Function):
    """Rows of X at the places Y, of which `slot_X` are the ones that count: each row once."""

    @staticmethod
    def forward(ctx: Any, values_X: Tensor, there_Y: Tensor, slot_X: Tensor) -> Tensor:
        ctx.save_for_backward(slot_X)
        return values_X.index_select(0, there_Y)

    @staticmethod
    def backward(ctx: Any, gradient_Y: Tensor) -> tuple[Tensor, None, None]:
        (slot_X,) = ctx.saved_tensors
        return gradient_Y.index_select(0, slot_X), None, None


class _Put(torch.autograd.Function):
    """Rows `slot_X` of Y; the others have no gradient."""

    @staticmethod
    def forward(ctx: Any, values_Y: Tensor, slot_X: Tensor) -> Tensor:
        ctx.save_for_backward(slot_X)
        ctx.rows = len(values_Y)
        return values_Y.index_select(0, slot_X)

    @staticmethod
    def backward(ctx: Any, gradient_X: Tensor) -> tuple[Tensor, None]:
        (slot_X,) = ctx.saved_tensors
        return gradient_X.new_zeros(ctx.rows, *gradient_X.shape[1:]).index_copy_(0, slot_X, gradient_X), None


def attend(
    module: Any,
    query_1HXD: Tensor,
    key_1KXD: Tensor,
    value_1KXD: Tensor,
    attention_mask: None,
    scaling: float,
    *,
    windows: Windows,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface, within `windows`. [1, X, H, D].

    Of H query heads those that share one of K key heads are further queries of one product: no key is copied for them.
    """
    queries, keys, values = (windows.split(states) for states in (query_1HXD, key_1KXD, value_1KXD))
    before = keys[0], values[0]
    group = query_1HXD.shape[1] // key_1KXD.shape[1]
    results = []
    for query_BTHD, own, added_B1QS, after_B in zip(
        queries, zip(keys, values, strict=True), windows.added(group, query_1HXD.dtype), windows.after, strict=True
    ):
        key_BKSD, value_BKSD = (
            (part if after_B is None else torch.cat([first.index_select(0, after_B), part], dim=1)).transpose(1, 2)
            for first, part in zip(before, own, strict=True)
        )
        query_BKGTD = query_BTHD.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4)
        found = F.scaled_dot_product_attention(
            query_BKGTD.flatten(2, 3), key_BKSD, value_BKSD, attn_mask=added_B1QS, scale=scaling
        )
        results.append(found.unflatten(2, (group, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3))
    return windows.join(results), None


AttentionInterface.register(ATTENTION, attend)
