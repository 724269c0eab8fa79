"""The union of tasks deals problems out in turn."""

import pytest

from copd.tasks.digits import Digits
from copd.tasks.mixture import Mixture
from copd.types import Split

CAPABILITIES = (Digits("text"), Digits("image"), Digits("video"))
MIXED = Mixture("mixed", CAPABILITIES)


def test_any_k_consecutive_problems_hold_one_of_each_task():
    for first in range(12):
        tasks = [MIXED.problem(Split.TRAIN, first + i).task for i in range(3)]
        assert sorted(tasks) == ["image", "text", "video"]


@pytest.mark.parametrize("split", Split)
def test_every_tasks_problems_come_in_order_and_none_is_left_out(split):
    ids = [MIXED.problem(split, i).id for i in range(15)]
    assert ids == [task.problem(split, i).id for i in range(5) for task in CAPABILITIES]


def test_a_mixture_of_one_is_that_task():
    alone = Mixture("alone", (CAPABILITIES[0],))
    assert [alone.problem(Split.TEST, i).prompt for i in range(5)] == [
        CAPABILITIES[0].problem(Split.TEST, i).prompt for i in range(5)
    ]


def test_the_mixture_has_its_own_name():
    assert MIXED.name == "mixed"
