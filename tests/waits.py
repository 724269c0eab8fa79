"""Counts the operations that would make the host wait for a card, on a CPU, where nothing waits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SIZED_BY_DATA = (
    *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("_local_scalar_dense", "is_nonzero", "equal", "repeat_interleave"),
)
"""Operations of aten whose result, or its size, the host must know."""


class _Dispatched(TorchDispatchMode):
    def __init__(self, counted: list[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name in SIZED_BY_DATA or by_mask:
            self._counted.append(name)
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Names, in `counted`, every operation in its block for which a host would wait; one more for each copy to it."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[str] = []
        self._dispatched = _Dispatched(self.counted)

    def __enter__(self) -> Waits:
        self._dispatched.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        self._dispatched.__exit__(*given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.cpu, Tensor.tolist):
            self.counted.append(func.__name__)
        return func(*args, **(kwargs or {}))
