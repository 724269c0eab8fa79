"""An actor that says how often its policy answers rows rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from copd.branches.actor import Actor, generator_of
from copd.errors import BadRow
from copd.types import Problem, Rated

RATER = "filter"
"""The name in the random numbers of all raters, so that it does not matter which of them answers a row."""
InFileOrder = Callable[[range], Iterable[tuple[int, Problem | BadRow]]]
"""The rows at some places: the place, and the problem or why the row is bad."""


class Rater(Actor):
    """An actor that is asked rows chunk by chunk. A chunk's answers depend on its number and its rows alone."""

    def __init__(self, *parts: Any, capability: str, in_file_order: InFileOrder) -> None:
        """`parts` as of an Actor; `capability` is the task of the rows."""
        super().__init__(*parts)
        self.capability = capability
        self._in_file_order = in_file_order

    def rate(self, number: int, places: range, samples: int) -> Rated:
        """Answer the rows at these places, which are the chunk `number`, each `samples` times."""
        read = list(self._in_file_order(places))
        bad = {place: str(row) for place, row in read if isinstance(row, BadRow)}
        problems = {place: row for place, row in read if isinstance(row, Problem)}
        if not problems:
            return Rated({}, bad, 0)
        generator = generator_of(self.sampling.seed, RATER, self.capability, number)
        answers = self.answer(list(problems.values()), samples, generator)
        assert answers.correct_N is not None
        right = answers.prompt_of_N[answers.correct_N].bincount(minlength=len(problems))
        return Rated(dict(zip(problems, right.tolist(), strict=True)), bad, answers.grader_failures)
