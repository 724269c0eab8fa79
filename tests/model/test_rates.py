"""The learning rate over the updates, against values by hand."""

from functools import partial

import pytest

from copd.model.rates import constant, cosine, linear, warmed


def test_a_warm_up_rises_evenly_and_ends_at_the_whole_rate():
    rate = warmed(constant, 4)
    assert [rate(update) for update in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_without_a_warm_up_the_first_update_has_the_whole_rate():
    assert warmed(constant, 0)(0) == 1.0


def test_a_straight_decay_ends_at_its_share_and_stays_there():
    rate = partial(linear, steps=4, to=0.2)
    assert [rate(update) for update in (0, 1, 2, 4, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2], abs=1e-12)


def test_a_cosine_is_half_way_in_the_middle_and_flat_at_both_ends():
    rate = partial(cosine, steps=100, to=0.2)
    assert [rate(update) for update in (0, 50, 100, 150)] == pytest.approx([1.0, 0.6, 0.2, 0.2], abs=1e-12)
    assert 1 - rate(1) < 1e-3 > rate(99) - 0.2


def test_a_decay_begins_after_the_warm_up():
    rate = warmed(partial(linear, steps=2, to=0.0), 2)
    assert [rate(update) for update in range(5)] == [0.5, 1.0, 1.0, 0.5, 0.0]
