"""A card that the CPU pretends to be: tensors say that they are on it, and operations on tensors of two devices fail.

What runs on it has the values of the CPU, and breaks where a card would: a mask, an index or a random number that was
left on the CPU. What only a card does, such as kernels and streams, is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
BETWEEN_DEVICES = {"aten.copy_.default", "aten._to_copy.default", "aten.index_put.default"}
"""The last in the backward pass of an index, where autograd makes zeros on the device of the memory."""


class OnCard(torch.Tensor):
    """A tensor of the card, whose values are those of `inner`."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: torch.Tensor
    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnCard:
        with no_dispatch():
            made = torch.Tensor._make_subclass(cls, real.detach())
        made.inner = real
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})

    def to(self, *args: Any, copy: bool = False, **options: Any) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype)
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **options)
        device, dtype = device or CARD, dtype or self.dtype
        if not copy and (device.type, dtype) == ("cuda", self.dtype):
            return self
        return torch.ops.aten._to_copy(self, dtype=dtype, device=device)

    def cpu(self) -> torch.Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self, **options: Any) -> str:
        return f"OnCard({self.inner})"


def _computed(function: Any, args: Any, options: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, options)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, OnCard)]
    here = [each for each in tensors if not isinstance(each, OnCard) and each.ndim]
    if there and here and str(function) not in BETWEEN_DEVICES:
        raise RuntimeError(f"{function}: expected all tensors to be on one device, found {CARD} and cpu")
    asked = options.get("device")
    on_card = bool(there) if asked is None else torch.device(asked).type == "cuda"
    if str(function) == "aten.copy_.default":
        on_card = isinstance(args[0], OnCard)
    if asked is not None:
        options = {**options, "device": torch.device("cpu")}
    with no_dispatch():
        found = function(*tree_map(_real, args), **tree_map(_real, options))
    known = {id(each.inner): each for each in there}

    def told(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnCard):
            return value
        if id(value) in known:
            return known[id(value)]
        return OnCard(value) if on_card else value

    return tree_map(told, found)


def _real(value: Any) -> Any:
    return value.inner if isinstance(value, OnCard) else value


class _Watched(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})


@contextmanager
def pretended_card() -> Iterator[SimpleNamespace]:
    """Within this context `CARD` is there."""
    tensor, to = torch.tensor, torch.Tensor.to

    def made(*args: Any, device: Any = None, **options: Any) -> Any:
        found = tensor(*args, **options)
        return found if device is None else found.to(device)

    def moved(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        if args and isinstance(args[0], OnCard):
            args = (CARD, args[0].dtype, *args[1:])
        return to(self, *args, **options)

    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for name, value in (
            ("torch.tensor", made),
            ("torch.Tensor.to", moved),
            ("torch.cuda._lazy_init", lambda: None),
        ):
            stack.enter_context(mock.patch(name, value))
        yield stack.enter_context(_Watched())
