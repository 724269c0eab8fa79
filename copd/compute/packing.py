"""Prompts and the responses to them in one sequence without padding, so that a prompt is computed once for its rows.

A prompt's tokens attend to the prompt. The tokens of a row attend to their prompt and to the row. Each such group of
tokens has a window. Only the products of attention have padding; the products of the layers, which are most of the
work, have none. No cache is needed. transformers calls `attend` if a model's configuration names `ATTENTION` (its
`AttentionInterface`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from copd.compute.encode import Prompts
from copd.types import Rollouts

ALIKE = 0.7
"""Least size of a group in a window, as a share of the window's largest. The difference is padding of attention."""
ATTENTION = "copd_windows"


class Packed(NamedTuple):
    """One sequence of X tokens: prompts, each followed by its rows without their last tokens, which predict nothing.

    prompts    token ids, positions and media, in the form of one prompt
    windows    which tokens each token attends to
    before_M   place of the token before each of the M response tokens, row by row
    """

    prompts: Prompts
    windows: Windows
    before_M: Tensor


class _Layout(NamedTuple):
    """The places of a micro-batch's tokens, on the CPU: first token and number of tokens of each prompt and row."""

    first_P: Tensor
    length_P: Tensor
    first_N: Tensor
    length_N: Tensor
    tokens: int


def pack(prompts: Prompts, rollouts: Rollouts) -> Packed:
    """Prompts and responses in one sequence, on the device of the prompts."""
    device, prompt_of_N = prompts.ids_PS.device, rollouts.prompt_of_N.cpu()
    layout = _layout(prompts.mask_PS.sum(-1).cpu(), rollouts.mask_NT.cpu().sum(-1), prompt_of_N)
    row_M, t_M = rollouts.mask_NT.cpu().nonzero(as_tuple=True)
    before_M = layout.first_N[row_M] + t_M - 1
    begins_M = t_M == 0
    last_P = layout.first_P + layout.length_P - 1
    before_M[begins_M] = last_P[prompt_of_N[row_M[begins_M]]]
    laid = _sequence(prompts, rollouts, layout)
    windows = Windows(_windows(layout, prompt_of_N), layout.tokens, device)
    return Packed(laid, windows, before_M.to(device))


def _layout(length_P: Tensor, response_N: Tensor, prompt_of_N: Tensor) -> _Layout:
    """Prompts one after the other, each before its rows in their order."""
    length_N = (response_N - 1).clamp(min=0)
    rows_P = torch.zeros_like(length_P).index_add_(0, prompt_of_N, length_N)
    size_P = length_P + rows_P
    first_P = size_P.cumsum(0) - size_P
    order_N = prompt_of_N.argsort(stable=True)
    before_N = length_N[order_N].cumsum(0) - length_N[order_N]
    shift_P = first_P + length_P - (rows_P.cumsum(0) - rows_P)
    first_N = torch.empty_like(length_N).scatter_(0, order_N, before_N + shift_P[prompt_of_N[order_N]])
    return _Layout(first_P, length_P, first_N, length_N, int(size_P.sum()))


def _sequence(prompts: Prompts, rollouts: Rollouts, layout: _Layout) -> Prompts:
    """Ids and positions of all tokens. A response continues after the last position of its prompt."""
    device, mask_PS, positions_APS = prompts.ids_PS.device, prompts.mask_PS.cpu(), prompts.positions_APS.cpu()
    ids_X = torch.empty(layout.tokens, dtype=torch.long)
    positions_AX = torch.empty(len(positions_APS), layout.tokens, dtype=torch.long)
    place_PS, real_PS = _spread(layout.first_P, layout.length_P)
    ids_X[place_PS[real_PS]] = prompts.ids_PS.cpu()[mask_PS]
    positions_AX[:, place_PS[real_PS]] = positions_APS[:, mask_PS]
    place_NT, real_NT = _spread(layout.first_N, layout.length_N)
    ids_X[place_NT[real_NT]] = rollouts.tokens_NT.cpu()[:, : real_NT.shape[1]][real_NT]
    next_N = prompts.next_position_P.cpu()[rollouts.prompt_of_N.cpu()]
    positions_AX[:, place_NT[real_NT]] = (next_N[:, None] + torch.arange(real_NT.shape[1]))[real_NT]
    return Prompts(
        ids_X[None].to(device),
        torch.ones(1, layout.tokens, dtype=torch.bool, device=device),
        positions_AX[:, None].to(device),
        prompts.media_of_P,
    )


def _windows(layout: _Layout, prompt_of_N: Tensor) -> list[Window]:
    """The windows: a prompt's tokens attend to the prompt, the tokens of a row to the prompt and the row."""
    token_PS, real_PS = _spread(layout.first_P, layout.length_P)
    windows = [Window(token_PS, real_PS, _causal(*token_PS.shape))]
    rows_R = layout.length_N.nonzero()[:, 0]
    for group in alike(layout.length_N[rows_R]):
        row_B = rows_R[group]
        token_BT, real_BT = _spread(layout.first_N[row_B], layout.length_N[row_B])
        before_BTS = real_PS[prompt_of_N[row_B], None].expand(-1, token_BT.shape[1], -1)
        sees_BTS = torch.cat([before_BTS, _causal(*token_BT.shape)], dim=-1)
        windows.append(Window(token_BT, real_BT, sees_BTS, prompt_of_N[row_B]))
    return windows


def alike(size_N: Tensor) -> list[Tensor]:
    """Groups of indices of similar sizes, largest first. No size is below `ALIKE` times the largest of its group."""
    rest, groups = size_N.argsort(descending=True, stable=True), list[Tensor]()
    while len(rest):
        count = int((size_N[rest] >= ALIKE * size_N[rest[0]]).sum())
        groups.append(rest[:count])
        rest = rest[count:]
    return groups


def _spread(first_B: Tensor, size_B: Tensor) -> tuple[Tensor, Tensor]:
    """The places of consecutive tokens from `first_B` on, 0 on padding; and a mask that is False on padding. [B, T]."""
    steps_T = torch.arange(max([0, *size_B.tolist()]))
    real_BT = steps_T < size_B[:, None]
    return torch.where(real_BT, first_B[:, None] + steps_T, 0), real_BT


def _causal(count: int, length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Within this context the language model uses the attention that transformers knows by this name."""
    config = model.get_decoder().config
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


def attention_as_now(model: Any) -> tuple[Any, Any]:
    """Contexts for a layer's forward pass and its repetition in the backward pass. Both use the current attention."""
    return nullcontext(), attention(model, model.get_decoder().config._attn_implementation)


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

    The query heads that share a key head are further queries of one product, so that no key is copied for them.
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
