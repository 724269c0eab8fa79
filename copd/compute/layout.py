"""Where prompts and responses stand in one sequence without padding: each prompt before its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The places of X tokens, on the CPU: first token and number of tokens of each prompt and row.

    A row is a response without its last token, which predicts nothing.
    """

    first_P: Tensor
    length_P: Tensor
    first_N: Tensor
    length_N: Tensor
    prompt_of_N: Tensor
    tokens: int


def laid_out(length_P: Tensor, response_N: Tensor, prompt_of_N: Tensor) -> Layout:
    """Prompts one after the other, each before its rows in their order."""
    length_N = (response_N - 1).clamp(min=0)
    rows_P = torch.zeros_like(length_P).index_add_(0, prompt_of_N, length_N)
    size_P = length_P + rows_P
    first_P = size_P.cumsum(0) - size_P
    order_N = prompt_of_N.argsort(stable=True)
    before_N = length_N[order_N].cumsum(0) - length_N[order_N]
    shift_P = first_P + length_P - (rows_P.cumsum(0) - rows_P)
    first_N = torch.empty_like(length_N).scatter_(0, order_N, before_N + shift_P[prompt_of_N[order_N]])
    return Layout(first_P, length_P, first_N, length_N, prompt_of_N, int(size_P.sum()))


def spread(first_B: Tensor, size_B: Tensor) -> tuple[Tensor, Tensor]:
    """The places of consecutive tokens from `first_B` on, 0 on padding; and a mask that is False on padding. [B, T]."""
    steps_T = torch.arange(max([0, *size_B.tolist()]))
    real_BT = steps_T < size_B[:, None]
    return torch.where(real_BT, first_B[:, None] + steps_T, 0), real_BT
