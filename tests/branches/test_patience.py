"""A slow branch is named, a silent one is given up, and an answer or an error comes through as it is."""

import asyncio

import pytest

from copd.branches.patience import Patience
from copd.errors import LostBranchError, NonFiniteError, ProcessError

MINUTE = 1 / 60 / 20
"""A twentieth of a second, in minutes."""


def asked(carry, named_after=4 * MINUTE, given_up_after=400 * MINUTE):
    """The result of a call, and the warnings."""
    told = []
    call = Patience(named_after, given_up_after, told.append).applied("video", carry)
    return asyncio.run(call("update", [1], more=2)), told


async def at_once(method, *arguments, **options):
    return method, arguments, options


async def slowly(*_, **__):
    await asyncio.sleep(0.5)
    return "at last"


async def failing(*_, **__):
    raise NonFiniteError("five bad steps")


def test_an_answer_in_time_comes_through_unseen():
    assert asked(at_once) == (("update", ([1],), {"more": 2}), [])


def test_a_slow_branch_is_named_with_what_it_does_and_its_answer_still_counts():
    answer, told = asked(slowly)
    assert answer == "at last"
    assert told == ["branch video: `update` has taken 0.00333333 minutes so far"]


def test_a_silent_branch_is_given_up_in_a_bounded_time_and_its_call_is_dropped():
    async def silent(*_, **__):
        await asyncio.sleep(600)

    async def given_up():
        call = Patience(4 * MINUTE, 8 * MINUTE, print).applied("video", silent)
        with pytest.raises(ProcessError, match=said):
            await call("update")
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    said = r"branch video: `update` has given no answer for 0\.00666667 minutes; .* raise backend\.give_up_minutes"
    assert asyncio.run(given_up()) == 1, "that of the test alone"


def test_a_branch_that_is_slow_in_building_is_named_and_one_that_takes_too_long_is_given_up():
    told, waited = [], []

    def is_built(seconds):
        waited.append(seconds)
        return len(waited) >= built_after

    patience, built_after = Patience(0.5, 2, told.append), 2
    patience.built("video", is_built)
    assert (told, waited) == (["branch video: has been in building for 0.5 minutes so far"], [30, 90])
    built_after = 9
    said = "branch video: has not been built within 2 minutes; where that is normal, raise backend.give_up_minutes"
    with pytest.raises(LostBranchError, match=f"^{said}$"):
        patience.built("video", is_built)


def test_an_error_of_the_branch_is_raised_as_it_is():
    with pytest.raises(NonFiniteError, match="five bad steps"):
        asked(failing)


def test_a_call_that_waits_for_another_of_its_branch_is_not_called_slow():
    line = asyncio.Lock()

    async def one_after_the_other(method, *_, **__):
        async with line:
            await asyncio.sleep(0.15)
        return method

    async def three():
        told = []
        call = Patience(4 * MINUTE, 400 * MINUTE, told.append).applied("video", one_after_the_other)
        return await asyncio.gather(*(call(str(i)) for i in range(3))), told

    assert asyncio.run(three()) == (["0", "1", "2"], [])
