"""AdamW in three ways: moments in float32 beside the weights, in 8 bits, or on the CPU.

A kind says what its moments are called and what shape they have, so that a checkpoint is checked before it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from copd.errors import RecipeError

QUANTIZED_FROM, QUANTIZED_BLOCK = 4096, 256
"""bitsandbytes: tensors of fewer elements keep float32 moments; so many elements share a scale."""

Shapes = Callable[[Tensor], dict[str, torch.Size]]
"""The shape of each tensor that a checkpoint holds of a parameter's state."""
State = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A way to keep AdamW's state: how to make the optimizer, the state's shapes, and whether it follows the weights.

    `completed` makes a parameter's state of the tensors that a checkpoint holds of it.
    """

    make: Callable[..., torch.optim.Optimizer]
    shapes: Shapes
    follows: bool = True
    completed: Callable[[Any, Tensor, State], State] = lambda optimizer, parameter, tensors: tensors


class AdamWOnCpu(torch.optim.AdamW):
    """AdamW whose moments are on the CPU. One weight after the other is updated there, and written back."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                weight, gradient = parameter.detach().cpu(), parameter.grad.cpu()
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
                adamw(
                    [weight],
                    [gradient],
                    [state["exp_avg"]],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                    fused=True,
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                parameter.copy_(weight)


def _adamw(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **options)


def _adamw_8bit(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RecipeError("optimizer.kind: adamw_8bit needs bitsandbytes: pip install 'copd[adamw8bit]'") from error
    return AdamW8bit(parameters, min_8bit_size=QUANTIZED_FROM, **options)


def _moments(parameter: Tensor) -> dict[str, torch.Size]:
    return {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}


def _moments_8bit(parameter: Tensor) -> dict[str, torch.Size]:
    """Moments as indices into a table of values, times the largest magnitude of each block, `absmax`."""
    moments = {"step": torch.Size(), "state1": parameter.shape, "state2": parameter.shape}
    if parameter.numel() < QUANTIZED_FROM:
        return moments
    blocks = torch.Size([ceil(parameter.numel() / QUANTIZED_BLOCK)])
    return moments | {"absmax1": blocks, "absmax2": blocks}


def _completed_8bit(optimizer: Any, parameter: Tensor, tensors: State) -> State:
    """With the two tables, which all parameters share, and steps counted in a number of Python."""
    if "step" not in tensors:
        return tensors
    state = {**tensors, "step": int(tensors["step"])}
    if parameter.numel() < QUANTIZED_FROM:
        return state
    optimizer.fill_qmap()
    signed, unsigned = (optimizer.name2qmap[name].to(parameter.device) for name in ("dynamic", "udynamic"))
    return state | {"qmap1": signed, "qmap2": unsigned}


KINDS: Mapping[str, Kind] = {
    "adamw": Kind(_adamw, _moments),
    "adamw_8bit": Kind(_adamw_8bit, _moments_8bit, completed=_completed_8bit),
    "adamw_on_cpu": Kind(AdamWOnCpu, _moments, follows=False),
}
