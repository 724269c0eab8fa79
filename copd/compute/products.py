"""Products of linear layers by oneDNN, on CPUs where it is the faster of torch's two libraries.

torch multiplies float32 matrices by MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, in the same
package, takes AVX-512 wherever there is any; `torch.compile` calls it by the same operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 3 << 19
"""Multiplications on each thread that are worth a call of oneDNN; fewer are over sooner by MKL."""
ROWS = 64
"""Products have a multiple of this many rows: oneDNN writes code for every shape that it meets, which takes a while."""


def quicken(model: nn.Module, *, but: nn.Module | None = None) -> None:
    """Make the linear layers of a model `QuickLinear`, in place; those of subclasses, and `but`, stay what they are.

    An output head should stay: the last bits of a log-prob would depend on how many are asked for at once.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module is not but:
            module.__class__ = QuickLinear


def pays(matrix: Tensor, weight: Tensor) -> bool:
    """Whether `product` can take these and is faster than torch: large, in float32, on a CPU with AVX-512."""
    ordinary = matrix.device.type == "cpu" and matrix.dtype == weight.dtype == torch.float32
    large = matrix.numel() * len(weight) >= LEAST * torch.get_num_threads()
    return ordinary and large and _there() and not torch.is_autocast_enabled("cpu")


def product(matrix_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`matrix weight^T + bias`. [M, O]."""
    return torch.ops.mkldnn._linear_pointwise(matrix_MI, weight_OI, bias_O, "none", [], "")


class QuickLinear(nn.Linear):
    """The same layer; where `pays` says so, its products and those of its gradient are oneDNN's."""

    def forward(self, input: Tensor) -> Tensor:
        if pays(input, self.weight):
            return _Linear.apply(input, self.weight, self.bias)
        return super().forward(input)


class _Linear(torch.autograd.Function):
    """A linear layer on rows of any shape."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(matrix, weight_OI)
        ctx.has_bias = bias_O is not None
        rows_MI = matrix.reshape(-1, matrix.shape[-1])
        result_MO = product(_filled_up(rows_MI), weight_OI, bias_O)[: len(rows_MI)]
        return result_MO.view(*matrix.shape[:-1], len(weight_OI))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        matrix, weight_OI = ctx.saved_tensors
        wants_matrix, wants_weight, _ = ctx.needs_input_grad
        rows = gradient.numel() // gradient.shape[-1]
        gradient_MO = _filled_up(gradient.reshape(rows, -1))
        of_matrix = of_weight = None
        if wants_matrix:
            of_matrix = product(gradient_MO, weight_OI.t())[:rows].view(matrix.shape)
        if wants_weight:
            of_weight = _outer(gradient_MO, _filled_up(matrix.reshape(rows, -1)))
        return of_matrix, of_weight, gradient_MO.sum(0) if ctx.has_bias else None


def _outer(gradient_MO: Tensor, matrix_MI: Tensor) -> Tensor:
    """`gradient^T matrix` [O, I]. oneDNN copies the transpose of its first argument: that of the narrower one."""
    if gradient_MO.shape[1] < matrix_MI.shape[1]:
        return product(gradient_MO.t(), matrix_MI.t())
    return product(matrix_MI.t(), gradient_MO.t()).t()


def _filled_up(rows_MI: Tensor) -> Tensor:
    """The rows, and as many zeros as `ROWS` wants. Contiguous."""
    missing = -len(rows_MI) % ROWS
    if not missing:
        return rows_MI.contiguous()
    return torch.cat([rows_MI, rows_MI.new_zeros(missing, rows_MI.shape[1])])


def _there() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
