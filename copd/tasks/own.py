"""A task of the user's own: a class whose `problem(split, index)` makes problems, checked at the start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from copd.errors import CopdError, DataError, RecipeError
from copd.types import Pixels, Problem, Split

PROBED = 8
"""How many problems of each split are made at the start."""


@dataclass(frozen=True, eq=False)
class OwnTask:
    """A `copd.types.Task` around an object of the user's. Its problems carry the branch's name.

    `source` names the user's class in messages.
    """

    name: str
    source: str
    made_by: Any

    def problem(self, split: Split, index: int) -> Problem:
        """The user's problem. Raises DataError, naming split and index, for the user's error and for no Problem."""
        where = f"{self.source}: problem({split}, {index})"
        try:
            problem = self.made_by.problem(split, index)
        except CopdError:
            raise
        except Exception as error:
            raise DataError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(problem, Problem):
            raise DataError(f"{where}: returned {repr(problem)[:80]}; accepted: a copd.types.Problem")
        return problem


def own_task(
    name: str, source: str, own: Callable[..., Any], arguments: Mapping[str, bool | int | float | str], seed: int
) -> OwnTask:
    """The task of branch `name`, by a class of the user's. Its parameter `seed`, if it has one, gets the recipe's.

    Raises RecipeError if the class refuses the arguments, or makes something without a method `problem`.
    """
    field = f"branches.{name}.task"
    try:
        takes_seed = "seed" in inspect.signature(own).parameters
        made = own(**({"seed": seed} if takes_seed else {}) | dict(arguments))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"{field}.arguments: {source} fails with them: {type(error).__name__}: {reason}") from error
    if not callable(getattr(made, "problem", None)):
        raise RecipeError(f"{field}.source: {source} has no method problem(split, index)")
    return OwnTask(name, source, made)


def check_own(task: OwnTask, verifiers: Collection[str], misread: Callable[[str, str], str | None]) -> None:
    """Check the first problems of each split: pixels, verifiers, answers, and that a problem is the same each time.

    `misread` says why a verifier cannot read an answer. Raises DataError.
    """
    seen: dict[str, str] = {}
    for split in Split:
        for index in range(PROBED):
            where = f"{task.source}: problem({split}, {index})"
            problem = task.problem(split, index)
            _check_pixels(problem, where)
            if problem.verifier not in verifiers:
                raise DataError(
                    f"{where}: unknown verifier {problem.verifier!r}; accepted: {', '.join(sorted(verifiers))}"
                )
            if reason := misread(problem.verifier, problem.answer):
                raise DataError(f"{where}: the answer {problem.answer[:40]!r}: {reason}")
            if problem.fingerprint != task.problem(split, index).fingerprint:
                raise DataError(f"{where}: is another problem the second time; it must depend on split and index alone")
            if split is not Split.TRAIN and (before := seen.get(problem.fingerprint)):
                raise DataError(f"{where}: is the problem of {before} again; each must be another")
            seen.setdefault(problem.fingerprint, f"problem({split}, {index})")


def _check_pixels(problem: Problem, where: str) -> None:
    for what, media, axes in (("images", problem.images, 3), ("videos", problem.videos, 4)):
        for item in media:
            shaped = len(item.shape) == axes and item.shape[-1] == 3
            if not shaped or (not isinstance(item, Pixels) and item.dtype != np.uint8):
                shape = "[height, width, 3]" if axes == 3 else "[frames, height, width, 3]"
                raise DataError(f"{where}: {what} hold an array of {list(item.shape)}; accepted: {shape} of uint8")
