"""Attention of a packed sequence in windows, for CPUs.

A prompt's tokens attend to the prompt. The tokens of a row attend to their prompt and to the row. Each such group of
tokens has a window. Only the products of attention have padding; the products of the layers, which are most of the
work, have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from copd.compute.layout import Layout, spread

ALIKE = 0.7
"""Least size of a group in a window, as a share of the window's largest. The difference is padding of attention."""


def windows_of(layout: Layout, device: torch.device) -> Windows:
    """The windows: a prompt's tokens attend to the prompt, the tokens of a row to the prompt and the row."""
    token_PS, real_PS = spread(layout.first_P, layout.length_P)
    windows = [Window(token_PS, real_PS, _causal(*token_PS.shape))]
    rows_R = layout.length_N.nonzero()[:, 0]
    for group in alike(layout.length_N[rows_R]):
        row_B = rows_R[group]
        prompt_B = layout.prompt_of_N[row_B]
        token_BT, real_BT = spread(layout.first_N[row_B], layout.length_N[row_B])
        before_BTS = real_PS[prompt_B, None].expand(-1, token_BT.shape[1], -1)
        sees_BTS = torch.cat([before_BTS, _causal(*token_BT.shape)], dim=-1)
        windows.append(Window(token_BT, real_BT, sees_BTS, prompt_B))
    return Windows(windows, layout.tokens, device)


def alike(size_N: Tensor) -> list[Tensor]:
    """Groups of indices of similar sizes, largest first. No size is below `ALIKE` times the largest of its group."""
    rest, groups = size_N.argsort(descending=True, stable=True), list[Tensor]()
    while len(rest):
        count = int((size_N[rest] >= ALIKE * size_N[rest[0]]).sum())
        groups.append(rest[:count])
        rest = rest[count:]
    return groups


def _causal(count: int, length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)


class Window(NamedTuple):
    """B groups of up to T tokens, which attend to their own group and to the tokens before it.

    token_BT   place of each token in the sequence; any place in the padding
    real_BT    False on padding
    sees_BTS   True on those of its S keys that a token attends to: at least one, in the padding too
    after_B    the group of the first window whose keys come before those of each group; None: there are none
    """

    token_BT: Tensor
    real_BT: Tensor
    sees_BTS: Tensor
    after_B: Tensor | None = None


class Windows:
    """Windows that hold each of X tokens once."""

    def __init__(self, windows: Sequence[Window], tokens: int, device: torch.device) -> None:
        there_Y = torch.cat([window.token_BT.flatten() for window in windows])
        real_Y = torch.cat([window.real_BT.flatten() for window in windows])
        slot_X = torch.empty(tokens, dtype=torch.long)
        slot_X[there_Y[real_Y]] = real_Y.nonzero()[:, 0]
        self.there_Y, self.slot_X = there_Y.to(device), slot_X.to(device)
        self.each = tuple(windows)
        self.sees = [window.sees_BTS.to(device) for window in windows]
        self._added: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        self.after = [None if window.after_B is None else window.after_B.to(device) for window in windows]

    def added(self, group: int, dtype: torch.dtype) -> list[Tensor]:
        """The mask added to the scores of each window, for `group` query heads one after the other. [B, 1, group T, S].

        It is the same for all layers, and is computed at the first.
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
        parts = taken_YHD.split([shape.numel() for shape in shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`, for results [B, T, H, D]. [1, X, H, D]."""
        return _Put.apply(torch.cat([part.flatten(0, 1) for part in parts]), self.slot_X)[None]

    def attend(self, query_1HXD: Tensor, key_1KXD: Tensor, value_1KXD: Tensor, scaling: float) -> Tensor:
        """Attention within the windows. [1, X, H, D].

        The query heads that share a key head are further queries of one product, so that no key is copied for them.
        """
        queries, keys, values = (self.split(states) for states in (query_1HXD, key_1KXD, value_1KXD))
        before = keys[0], values[0]
        group = query_1HXD.shape[1] // key_1KXD.shape[1]
        results = []
        for query_BTHD, own, added_B1QS, after_B in zip(
            queries, zip(keys, values, strict=True), self.added(group, query_1HXD.dtype), self.after, strict=True
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
        return self.join(results)


class _Taken(torch.autograd.Function):
    """Takes rows of X at the places Y. `slot_X` are the places that are no padding: they hold each row once."""

    @staticmethod
    def forward(ctx: Any, values_X: Tensor, there_Y: Tensor, slot_X: Tensor) -> Tensor:
        ctx.save_for_backward(slot_X)
        return values_X.index_select(0, there_Y)

    @staticmethod
    def backward(ctx: Any, gradient_Y: Tensor) -> tuple[Tensor, None, None]:
        (slot_X,) = ctx.saved_tensors
        return gradient_Y.index_select(0, slot_X), None, None


class _Put(torch.autograd.Function):
    """Takes rows `slot_X` of Y. The other rows get no gradient."""

    @staticmethod
    def forward(ctx: Any, values_Y: Tensor, slot_X: Tensor) -> Tensor:
        ctx.save_for_backward(slot_X)
        ctx.rows = len(values_Y)
        return values_Y.index_select(0, slot_X)

    @staticmethod
    def backward(ctx: Any, gradient_X: Tensor) -> tuple[Tensor, None]:
        (slot_X,) = ctx.saved_tensors
        return gradient_X.new_zeros(ctx.rows, *gradient_X.shape[1:]).index_copy_(0, slot_X, gradient_X), None
