"""Problems by their address; those of validation are made once for all models, within bounds."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from copd.tasks import asked
from copd.tasks.asked import Asked
from copd.tasks.digits import Digits, _texts
from copd.types import Address, Problem, Split


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
        assert [p.id for p in problems.first(Split.TEST, "t", 5)] == [f"test/{i}" for i in range(5)]
        assert problems.first(Split.TEST, "t", 4)[:2] == few
    assert len(task.made) == 3 + 2 * (2 + 1)


def test_a_problem_knows_its_address_and_one_of_training_is_made_at_every_call():
    task = Counting()
    problems, address = Asked({"other": task}), Address("other", Split.TRAIN, 7)
    twice = [problems.at(address) for _ in range(2)]
    assert [problem.address for problem in twice] == [address] * 2
    assert task.made == [(Split.TRAIN, 7)] * 2
    with pytest.raises(KeyError):
        problems.at(Address("t", Split.TRAIN, 7))


def test_problems_asked_by_several_threads_are_those_of_one():
    """The texts of a split are drawn one after the other, each unlike those before it."""
    addresses = [Address("text", Split.TEST, index) for index in range(60)]
    alone = [problem.prompt for problem in map(Asked({"text": Digits("text")}).at, addresses)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        _texts.cache_clear()
        problems = Asked({"text": Digits("text")})
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: [problems.at(address).prompt for address in addresses], range(4)))
    finally:
        sys.setswitchinterval(interval)
        _texts.cache_clear()
    assert found == [alone] * 4
