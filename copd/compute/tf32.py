"""Products of float32 matrices in TF32, for the output head on cards.

Cards multiply float32 several times as fast if they first round the factors to 10 bits behind the point. Sums stay
float32. PyTorch has one setting for all products of a process. It must not be on for long: the positions of tokens are
multiplied by the frequencies of their rotations, and 10 bits hold positions up to 2,048 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def tf32() -> Iterator[None]:
    """Within this context cards multiply float32 matrices in TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class LinearInTf32(TorchFunctionMode):
    """Within this context linear layers multiply in TF32, and in their backward pass too, wherever that runs."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.linear:
            return function(*args, **(kwargs or {}))
        states, weight, bias = args
        product = _Product.apply(states, weight)
        return product if bias is None else product + bias


class _Product(torch.autograd.Function):
    """States [..., D] times weights [V, D]. [..., V]."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight_VD)
        with tf32():
            return states @ weight_VD.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight_VD = ctx.saved_tensors
        to_states, to_weight = ctx.needs_input_grad
        with tf32():
            return (
                gradient @ weight_VD if to_states else None,
                gradient.flatten(0, -2).T @ states.flatten(0, -2) if to_weight else None,
            )
