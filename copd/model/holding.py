"""How a model's weights are held: copied straight onto a device, frozen, in half precision, or waiting on the CPU."""

from __future__ import annotations

import copy
import mmap
import weakref
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from copd.errors import RecipeError

K = TypeVar("K", bound=Hashable)

PAGE = mmap.PAGESIZE
"""Bytes of a page of memory."""
CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose weights autocast turns into its own type at each call."""


def copied(model: Any, device: torch.device | str, *, whole: bool = False) -> Any:
    """An independent copy of a model on a device; `whole`: weights in half precision become float32 ones.

    No second copy is made on the device of the model itself.
    """
    own = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): _moved(tensor, device, whole=whole) for tensor in own})


def freeze(model: Any, names: Sequence[str]) -> None:
    """Train no weight inside the modules of these names from now on. Tied weights are one weight.

    A name is the end of a module's path, such as `visual` or `layers.0`. Raises RecipeError for a name that no module
    has, and if no weight is left to train.
    """
    for name in names:
        found = [module for path, module in model.named_modules() if f".{path}".endswith(f".{name}")]
        if not found:
            there = dict.fromkeys(path.rpartition(".")[2] for path, _ in model.named_modules() if path.count(".") == 1)
            raise RecipeError(f"model.freeze: no module of the model is called {name!r}; there is {', '.join(there)}")
        for module in found:
            module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(f"model.freeze: {', '.join(names)} leaves no weight to train; leave a module out")


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


class WaitingRoom:
    """Memory on the CPU for tensors of a card that others need for a while, each by a key of its own.

    A place is made once and kept. It is page-locked, so that copies run at the full speed of the bus.
    """

    def __init__(self) -> None:
        self._place_of: dict[Hashable, Tensor] = {}

    @torch.no_grad()
    def moved(self, tensors: Mapping[K, Tensor], device: torch.device | str) -> dict[K, Tensor]:
        """These tensors on a device: on the CPU in their places, elsewhere as copies."""
        if torch.device(device).type != "cpu":
            return {key: tensor.detach().to(device, non_blocking=True) for key, tensor in tensors.items()}
        leaving = {key: tensor for key, tensor in tensors.items() if not tensor.is_cpu}
        for key, tensor in leaving.items():
            if key not in self._place_of:
                self._place_of[key] = _place_for(tensor)
            self._place_of[key].copy_(tensor, non_blocking=True)
        for home in {tensor.device for tensor in leaving.values() if tensor.is_cuda}:
            torch.cuda.synchronize(home)
        return {key: self._place_of[key] if key in leaving else tensor.detach() for key, tensor in tensors.items()}


def _place_for(tensor: Tensor) -> Tensor:
    """Room for a tensor on the CPU, in pages of its own.

    The pages are locked where they are, since an allocation of locked memory is rounded up to 2^n. No page is locked
    twice, which CUDA refuses. Where it refuses anyway, the room stays as it is, and copies are slower.
    """
    if not tensor.is_cuda or not tensor.numel():
        return torch.empty_like(tensor, device="cpu")
    pages = -(-tensor.nbytes // PAGE) * PAGE
    memory = torch.empty(pages + PAGE, dtype=torch.uint8)
    first = -memory.data_ptr() % PAGE
    place = memory[first : first + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    _lock(place, pages, tensor.device)
    return place


def _lock(place: Tensor, size: int, card: torch.device) -> None:
    """Lock the pages at the beginning of which `place` is, for copies to and from this card, as long as it exists."""
    cuda = torch.cuda.cudart()
    with torch.cuda.device(card):  # else the first card would be entered, on which other processes may compute
        refused = int(cuda.cudaHostRegister(place.data_ptr(), size, 0))
    if not refused:
        weakref.finalize(place, cuda.cudaHostUnregister, place.data_ptr())
        return
    with suppress(RuntimeError):
        torch.zeros(1, device=card)  # takes CUDA's error, for which the next kernel would be blamed
