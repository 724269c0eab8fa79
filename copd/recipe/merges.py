"""Merge sections outside a recipe: for one merge, or for a grid of merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from copd.errors import RecipeError
from copd.recipe.explain import explained
from copd.recipe.method_sections import DISTIL, MERGE_FIELDS, MergeSection


def make_merge(data: Mapping[str, Any], branches: int) -> MergeSection:
    """Validate a merge section for this number of branches; raises RecipeError naming every faulty key."""
    try:
        section = MergeSection.model_validate(data)
        if section.method == DISTIL:
            raise ValueError(
                "merge.method: 'distil' trains a student, which takes a run: copd train with merge.method=distil"
            )
        section.check_count(branches)
    except ValidationError as error:
        details = [{**detail, "loc": ("merge", *detail["loc"])} for detail in error.errors()]
        raise RecipeError("\n".join(map(explained, details))) from None
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return section


def merge_grid(data: Mapping[str, Any], branches: int, steps: int) -> list[MergeSection]:
    """The merge sections to try: `data` with each point of the method's grid.

    Weights are multiples of 1/steps that sum to 1, even ones first. A scale is a multiple from 1/steps to 2, small ones
    first. Raises RecipeError if the method has neither weights nor a scale, or if `data` sets the one to be found.
    """
    method = data.get("method", "mean")
    fields = MERGE_FIELDS.get(method, {})
    field = next((name for name in ("scale", "weights") if name in fields), None)
    if field is None:
        make_merge(data, branches)
        scanned = ", ".join(
            sorted(name for name, fields in MERGE_FIELDS.items() if fields.keys() & {"scale", "weights"})
        )
        raise RecipeError(f"--scan: method {method!r} has no weights and no scale; there are {scanned}")
    if data.get(field) is not None:
        raise RecipeError(f"--scan: looks for merge.{field}, found {data[field]!r} given; leave one of the two out")
    points: list[Any] = [i / steps for i in range(1, 2 * steps + 1)]
    if field == "weights":
        counts = sorted(_shares(branches, steps), key=lambda shares: sum(n * n for n in shares))
        points = [tuple(n / steps for n in shares) for shares in counts]
    return [make_merge({**data, field: point}, branches) for point in points]


def _shares(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    """All ways to share out `total` over `parts`, largest first share first."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _shares(parts - 1, total - first))
