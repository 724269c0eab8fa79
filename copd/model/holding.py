"""How a model's weights are held: copied straight onto a device, or frozen in half precision."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose weights autocast turns into its own type at each call."""


def copied(model: Any, device: torch.device | str, *, whole: bool = False) -> Any:
    """An independent copy of a model on a device; `whole`: weights in half precision become float32 ones.

    No second copy is made on the device of the model itself.
    """
    own = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): _moved(tensor, device, whole=whole) for tensor in own})


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for a floating-point type of half precision; other types are what they are."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _moved(tensor: Tensor, device: torch.device | str, *, whole: bool) -> Tensor:
    moved = tensor.detach().to(device, at_least_float32(tensor.dtype) if whole else tensor.dtype, copy=True)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


@torch.no_grad()
def hold_in_half(model: Any, half: torch.dtype) -> None:
    """Hold the weights of a model that nobody trains in `half`, the type of autocast, where it holds all their digits.

    Autocast computes with the same numbers as before, and has nothing left to cast. What it does not cast stays as it
    is: norms, embeddings, and the output head, which computes in float32. So do weights that `half` would round.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if not isinstance(module, CAST) or module is head:
            continue
        for parameter in module.parameters(recurse=False):
            halved = parameter.to(half)
            if torch.equal(halved.to(parameter.dtype), parameter):
                parameter.data = halved
