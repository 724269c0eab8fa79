"""Merging branches into one model (method.md section 5)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def mean(branches: Sequence[Weights]) -> dict[str, Tensor]:
    """The plain mean of K branches, in float32, cast once to the branches' type. {name: tensor}.

    Tied weights appear once, under one name. Raises ValueError naming the tensor where keys, shapes or types differ,
    or where a value is not finite.
    """
    check_mergeable(branches)
    return {
        name: torch.stack([branch[name].float() for branch in branches]).mean(0).to(tensor.dtype)
        for name, tensor in branches[0].items()
    }


def check_mergeable(branches: Sequence[Weights]) -> None:
    """Raise ValueError, naming the tensor and the branch, unless all branches hold the same finite tensors."""
    if not branches:
        raise ValueError("nothing to merge: no branches given")
    first = branches[0]
    for k, branch in enumerate(branches):
        if difference := sorted(set(first) ^ set(branch)):
            raise ValueError(f"branch {k} and branch 0 differ in tensor {difference[0]!r}: only one of them has it")
        for name, tensor in branch.items():
            if tensor.shape != first[name].shape:
                raise ValueError(
                    f"{name!r} is {list(tensor.shape)} in branch {k} and {list(first[name].shape)} in branch 0"
                )
            if tensor.dtype != first[name].dtype:
                raise ValueError(f"{name!r} is {tensor.dtype} in branch {k} and {first[name].dtype} in branch 0")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name!r} has a value that is not finite in branch {k}")
