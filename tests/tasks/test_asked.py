"""Problems of validation are made once for all models, within bounds."""

import numpy as np

from copd.tasks import asked
from copd.tasks.asked import Asked
from copd.types import Problem, Split


class Counting:
    """A task that notes which problems it makes; each has a picture of 100 bytes."""

    name = "t"

    def __init__(self) -> None:
        self.made: list[tuple[Split, int]] = []

    def problem(self, split, index) -> Problem:
        self.made.append((split, index))
        return Problem(f"{split.value}/{index}", "t", "", "", "integer", images=(np.zeros((10, 10), np.uint8),))


def test_the_same_problems_are_made_once_and_only_the_missing_ones_added():
    task = Counting()
    problems = Asked({"t": task})
    first = problems.first(Split.TEST, "t", 3)
    assert [p.id for p in first] == ["test/0", "test/1", "test/2"]
    assert [a is b for a, b in zip(first, problems.first(Split.TEST, "t", 3), strict=True)] == [True] * 3
    assert problems.first(Split.TEST, "t", 2) == first[:2]
    assert problems.first(Split.TEST, "t", 5)[:3] == first
    assert task.made == [(Split.TEST, i) for i in range(5)]
    assert problems.first(Split.VALIDATION, "t", 1)[0].id == "validation/0"


def test_beyond_the_bound_problems_are_made_anew_and_still_the_same(monkeypatch):
    monkeypatch.setattr(asked, "REMEMBERED_BYTES", 350)
    task = Counting()
    problems = Asked({"t": task})
    few = problems.first(Split.TEST, "t", 2)
    for _ in range(2):
        assert [p.id for p in problems.first(Split.TEST, "t", 4)] == [f"test/{i}" for i in range(4)]
        assert problems.first(Split.TEST, "t", 4)[:2] == few
    assert len(task.made) == 2 + 4 * 2
