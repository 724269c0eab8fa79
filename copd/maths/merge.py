"""Merging K branches into one model, tensor by tensor (method.md section 5).

Every method takes the branches' tensors of one name, all of one shape and type. If it needs the base, it also takes the
base's tensor, which may be of another type. It computes in float32 and casts once, to the branches' type. A task vector
is a branch minus the base.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Named = tuple[str, Weights]
"""The name of a model in messages, and its weights."""

COLLINEAR = 1e-4
"""If the angle between two tensors has a smaller sine, they count as collinear: no arc between them is determined."""


def tensor_mean(branches: Sequence[Tensor]) -> Tensor:
    """theta = 1/K sum_k theta_k (model soups, arXiv 2203.05482)."""
    return torch.stack([branch.float() for branch in branches]).mean(0).to(branches[0].dtype)


def weighted(branches: Sequence[Tensor], *, weights: Sequence[float]) -> Tensor:
    """theta = sum_k w_k theta_k / sum_k w_k (model soups, arXiv 2203.05482). With equal weights this is the mean."""
    merged = torch.zeros_like(branches[0], dtype=torch.float32)
    for branch, weight in zip(branches, weights, strict=True):
        merged.add_(branch.float(), alpha=weight)
    return merged.div_(math.fsum(weights)).to(branches[0].dtype)


def task_arithmetic(base: Tensor, branches: Sequence[Tensor], *, scale: float) -> Tensor:
    """theta = base + scale sum_k (theta_k - base) (arXiv 2212.04089). With scale 1/K this is the mean."""
    start = base.float()
    total = torch.zeros_like(start)
    for branch in branches:
        total.add_(branch.float() - start)
    return start.add(total, alpha=scale).to(branches[0].dtype)


def ties(
    base: Tensor, branches: Sequence[Tensor], *, density: float, scale: float, weights: Sequence[float] | None = None
) -> Tensor:
    """theta = base + scale d: trim, elect sign, disjoint mean (TIES, arXiv 2306.01708).

    Each task vector keeps its share `density` of greatest magnitude, at least one entry. In each place the elected sign
    is that of the weighted sum, plus if the sum is 0. d is the weighted mean of the entries with the elected sign, 0 if
    there are none. Weights are 1 unless given. The paper trims a task vector as a whole; here each tensor is trimmed by
    itself, so that a model can be merged tensor by tensor.
    """
    start = base.float()
    weight_K = torch.tensor([1.0] * len(branches) if weights is None else weights, device=start.device)
    if len(weight_K) != len(branches):
        raise ValueError(f"{len(weight_K)} weights for {len(branches)} branches")
    weight_K = weight_K.reshape(-1, *[1] * start.dim())
    delta_K = torch.stack([trim(branch.float() - start, density) for branch in branches]).mul_(weight_K)
    sign = torch.where(delta_K.sum(0) >= 0, 1.0, -1.0)
    agrees_K = delta_K.sign() == sign
    total = (weight_K * agrees_K).sum(0)
    delta = (delta_K * agrees_K).sum(0) / torch.where(total > 0, total, 1.0)
    return start.add(delta, alpha=scale).to(branches[0].dtype)


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the share `density` of greatest magnitude, at least one entry, and ties with the least kept; 0 elsewhere."""
    size = delta.numel()
    if size == 0:
        return delta
    kept = max(1, int(density * size))
    threshold = delta.abs().flatten().kthvalue(size - kept + 1).values
    return torch.where(delta.abs() >= threshold, delta, 0.0)


def dare(base: Tensor, branches: Sequence[Tensor], *, density: float, scale: float, seed: int, name: str) -> Tensor:
    """theta = base + scale sum_k m_k (theta_k - base) / density: drop and rescale (DARE, arXiv 2311.03099).

    Each entry of a task vector is kept with probability `density` (`dare_mask`), so that its expectation does not
    change.
    """
    start = base.float()
    total = torch.zeros_like(start)
    for k, branch in enumerate(branches):
        kept = dare_mask(start.shape, density=density, seed=seed, branch=k, name=name).to(start.device)
        total.add_(torch.where(kept, branch.float() - start, 0.0))
    return start.add(total, alpha=scale / density).to(branches[0].dtype)


def dare_mask(shape: Sequence[int], *, density: float, seed: int, branch: int, name: str) -> Tensor:
    """Which entries DARE keeps, each with probability `density`. Bool, on the CPU (method.md, trap 12).

    The mask is a function of (seed, the branch's place, the tensor's name). The order of the tensors and the files that
    hold them do not count.
    """
    digest = hashlib.sha256(f"{seed}/{branch}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(tuple(shape), generator=generator) < density


def slerp(first: Tensor, second: Tensor, *, t: float) -> Tensor:
    """theta = (sin((1-t) a) first + sin(t a) second) / sin(a), a the angle between the two tensors as vectors.

    Shoemake, "Animating rotation with quaternion curves" (1985). If the tensors are collinear or one is 0, the merge
    interpolates linearly. Branches of one base are nearly parallel, so that arc and line hardly differ.
    """
    x, y = first.float(), second.float()
    x_unit, y_unit = (v / torch.linalg.vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny) for v in (x, y))
    angle = 2 * math.atan2(*(float(torch.linalg.vector_norm(v)) for v in (x_unit - y_unit, x_unit + y_unit)))
    if not x.any() or not y.any() or math.sin(angle) < COLLINEAR:
        along_x, along_y = 1 - t, t
    else:
        along_x, along_y = (math.sin(share * angle) / math.sin(angle) for share in (1 - t, t))
    return x.mul(along_x).add(y, alpha=along_y).to(first.dtype)


def _slerp_by_weights(branches: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    if len(branches) != 2:
        raise ValueError(f"method 'slerp' merges two branches, found {len(branches)}")
    first, second = branches
    return slerp(first, second, t=0.5 if weights is None else weights[1] / math.fsum(weights))


MERGES: dict[str, Callable[..., Tensor]] = {
    "mean": lambda name, branches, base: tensor_mean(branches),
    "weighted": lambda name, branches, base, **settings: weighted(branches, **settings),
    "task_arithmetic": lambda name, branches, base, **settings: task_arithmetic(base, branches, **settings),
    "ties": lambda name, branches, base, **settings: ties(base, branches, **settings),
    "dare": lambda name, branches, base, **settings: dare(base, branches, name=name, **settings),
    "slerp": lambda name, branches, base, weights=None: _slerp_by_weights(branches, weights),
}
"""The methods by name: (tensor's name, the branches' tensors, the base's or None, settings) -> the merged tensor."""

NEED_BASE = frozenset({"task_arithmetic", "ties", "dare"})


OwnMerge = Callable[[str, Sequence[Tensor], Tensor | None], Tensor]
"""A user's method: (tensor's name, the branches' tensors, the base's or None), in float32 -> the merged tensor."""


def needs_base(method: str | OwnMerge) -> bool:
    """Whether a method is to get the base. A user's gets it if it is there."""
    return callable(method) or method in NEED_BASE


class Merged(Mapping[str, Tensor]):
    """K models merged by a method of `MERGES` or of the user's. A tensor is read and merged when it is asked for.

    `branches` and `base` are models, each with its name in messages. A tensor has the type that holds the types of all
    branches: float32 and bfloat16 make float32. Raises ValueError, naming tensor and model, if names or shapes differ.
    Raises ValueError if the method needs a base and has none. A value that is not finite raises ValueError when it is
    read.
    """

    def __init__(
        self, branches: Sequence[Named], base: Named | None, method: str | OwnMerge, settings: Mapping[str, Any]
    ) -> None:
        if not branches:
            raise ValueError("nothing to merge: no branches given")
        if method in NEED_BASE and base is None:
            raise ValueError(f"method {method!r} needs the base that the branches started from")
        layouts = [(label, layout_of(model)) for label, model in (*branches, *([] if base is None else [base]))]
        check_alike(layouts)
        self.layout: Weights = _of_common_type([layout for _, layout in layouts[: len(branches)]])
        """Tensors with the shape and type of each merged tensor. Their values mean nothing."""
        self.method, self.settings = method, dict(settings)
        self._branches, self._base = branches, [base] if base is not None and needs_base(method) else []

    def __getitem__(self, name: str) -> Tensor:
        read = [(label, model[name]) for label, model in (*self._branches, *self._base)]
        for label, tensor in read:
            check_finite(name, tensor, label)
        tensors = [tensor for _, tensor in read]
        base = tensors.pop() if self._base else None
        return merge_tensor(
            self.method, name, [tensor.to(self.layout[name].dtype) for tensor in tensors], base, **self.settings
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


def layout_of(model: Weights) -> Weights:
    """Tensors with the shapes and types of a model. A model that is read from files has tensors without values."""
    return getattr(model, "layout", model)


def _of_common_type(layouts: Sequence[Weights]) -> Weights:
    """The first layout, each tensor in the type that holds the types of all."""
    first, *others = layouts
    types = {name: reduce(torch.promote_types, [o[name].dtype for o in others], t.dtype) for name, t in first.items()}
    if all(types[name] == tensor.dtype for name, tensor in first.items()):
        return first
    return {name: torch.empty_like(tensor, dtype=types[name], device="meta") for name, tensor in first.items()}


def merge_tensor(
    method: str | OwnMerge, name: str, branches: Sequence[Tensor], base: Tensor | None, **settings: Any
) -> Tensor:
    """Merge one tensor of each branch by a method of `MERGES` or of the user's. `base` is given if the method needs it.

    Raises ValueError, naming the tensor, if a result is too large for its type, or if a user's method fails or returns
    no tensor of the branches' shape.
    """
    if callable(method):
        merged = _merged_by_user(method, name, branches, base)
        check_finite(name, merged, "the merge by a method of yours")
        return merged
    try:
        merged = MERGES[method](name, branches, base, **settings)
    except (RuntimeError, OverflowError) as error:
        if "overflow" not in str(error):
            raise
        raise ValueError(f"{name!r} cannot be merged: the weights or the scale are too large") from None
    check_finite(name, merged, f"the merge by {method!r}: its values, the weights or the scale are too large")
    return merged


def _merged_by_user(method: OwnMerge, name: str, branches: Sequence[Tensor], base: Tensor | None) -> Tensor:
    first, start = branches[0], None if base is None else base.float()
    try:
        merged = method(name, [branch.float() for branch in branches], start)
    except Exception as error:
        raise ValueError(f"{name!r} cannot be merged by a method of yours: {type(error).__name__}: {error}") from error
    if not isinstance(merged, Tensor) or merged.shape != first.shape:
        found = f"a tensor of {list(merged.shape)}" if isinstance(merged, Tensor) else type(merged).__name__
        raise ValueError(
            f"{name!r}: the merge by a method of yours returned {found}; accepted: a tensor of {list(first.shape)}"
        )
    return merged.to(first.dtype)


def check_alike(models: Sequence[Named]) -> None:
    """Raise ValueError, naming the tensor and two models, if names or shapes differ. Values are not read."""
    (reference, first), *others = models
    for label, model in others:
        for name in sorted(set(first) ^ set(model)):
            owner = label if name in model else reference
            raise ValueError(f"{label} and {reference} differ in tensor {name!r}: only {owner} has it")
        for name, tensor in model.items():
            if tensor.shape != first[name].shape:
                raise ValueError(
                    f"{name!r} is {list(tensor.shape)} in {label} and {list(first[name].shape)} in {reference}"
                )


def check_finite(name: str, tensor: Tensor, label: str) -> None:
    """Raise ValueError, naming the tensor and the model, if a value is NaN or infinite."""
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name!r} has a value that is not finite in {label}")
