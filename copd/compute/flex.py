"""Attention of a packed sequence by torch's `flex_attention`, for cards.

The mask is a function of two numbers for each token, its prompt and its row. Blocks of the mask in which no token
attends to another are skipped. No key is copied, and no mask of all pairs of tokens exists.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from copd.compute.layout import Layout, spread

BLOCK = 128
"""Tokens of a block of the mask, each way: what the kernel takes by default."""
GRAIN = 2048
"""Lengths are multiples of this, so that few kernels are compiled."""
KERNELS = 128
"""Most kernels in a process: one for each length, with a gradient and without. Torch's own bound is 8."""
PAIRS_AT_ONCE = 1 << 26
"""Most pairs of tokens whose mask exists at once while blocks are counted."""

Sees = Callable[[Any, Any, Tensor, Tensor], Tensor]
"""Of a batch, a head, the place of a query and that of a key: whether the query attends to the key."""


def sees(prompt_X: Tensor, row_X: Tensor) -> Sees:
    """A token attends to the tokens of its prompt and of its own row, up to itself.

    `prompt_X` is the prompt of each token. `row_X` is its row, from 1 on, and 0 for the tokens of the prompt itself.
    """

    def mask(batch: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
        row = row_X[key]
        return (key <= query) & (prompt_X[key] == prompt_X[query]) & ((row == 0) | (row == row_X[query]))

    return mask


def owners(layout: Layout, length: int) -> tuple[Tensor, Tensor]:
    """The prompt and the row of each token, as `sees` takes them. [length].

    Padding at the end has a prompt of its own, in which each token is a row: it attends to itself alone.
    """
    place_PS, real_PS = spread(layout.first_P, layout.length_P)
    place_NT, real_NT = spread(layout.first_N, layout.length_N)
    row_R = real_NT.nonzero()[:, 0]
    prompt_X = torch.full((length,), len(layout.first_P), dtype=torch.int32)
    row_X = len(layout.first_N) + 1 + torch.arange(length, dtype=torch.int32)
    prompt_X[place_PS[real_PS]] = real_PS.nonzero()[:, 0].int()
    row_X[place_PS[real_PS]] = 0
    prompt_X[place_NT[real_NT]] = layout.prompt_of_N[row_R].int()
    row_X[place_NT[real_NT]] = row_R.int() + 1
    return prompt_X, row_X


def padded_length(tokens: int) -> int:
    """The next of few lengths, 8 of them from any length from 8 `GRAIN` on to its double.

    At most an eighth of a longer sequence is padding.
    """
    grain = max(GRAIN, (1 << tokens.bit_length()) // 16)
    return -(-tokens // grain) * grain


def block_mask(mask: Sees, length: int, device: torch.device) -> BlockMask:
    """What `create_block_mask` of torch gives, of a mask that never exists as a whole."""
    key_X = torch.arange(length, device=device)
    counts = []
    for query in key_X.split(max(1, PAIRS_AT_ONCE // (length * BLOCK)) * BLOCK):
        pairs = mask(None, None, query[:, None], key_X)
        counts.append(pairs.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).sum((1, 3)))
    count_QK = torch.cat(counts)
    full_QK = count_QK == BLOCK * BLOCK
    return BlockMask.from_kv_blocks(
        *_ordered((count_QK > 0) & ~full_QK),
        *_ordered(full_QK),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask,
        seq_lengths=(length, length),
    )


def _ordered(chosen_QK: Tensor) -> tuple[Tensor, Tensor]:
    """The number of chosen blocks of keys for each block of queries, and the blocks, chosen ones first."""
    order_QK = chosen_QK.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_QK.sum(-1).int()[None, None], order_QK.int()[None, None]


@cache
def compiled() -> Callable[..., Tensor]:
    """The kernel. It is compiled anew for each length: torch makes slower ones for lengths that it leaves open."""
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


class Blocks:
    """What each token of a sequence attends to, by blocks. It is the same for all layers."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        length = padded_length(layout.tokens)
        self._padding = length - layout.tokens
        prompt_X, row_X = owners(layout, length)
        self._mask = block_mask(sees(prompt_X.to(device), row_X.to(device)), length, device)

    def attend(self, query_1HXD: Tensor, key_1KXD: Tensor, value_1KXD: Tensor, scaling: float) -> Tensor:
        """Attention to what each token sees. [1, X, H, D]."""
        query, key, value = (self._padded(states) for states in (query_1HXD, key_1KXD, value_1KXD))
        with torch._dynamo.config.patch(recompile_limit=KERNELS):
            found = compiled()(query, key, value, block_mask=self._mask, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2)[:, : query_1HXD.shape[2]]

    def _padded(self, states_1HXD: Tensor) -> Tensor:
        """With zeros after the last token, in memory token by token, as the layers before and after have it."""
        return F.pad(states_1HXD.transpose(1, 2), (0, 0, 0, 0, 0, self._padding)).transpose(1, 2)
