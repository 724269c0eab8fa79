"""What a branch keeps of its batches, and how it replays them."""

import pytest
import torch

from copd.errors import CheckpointError
from copd.types import Part

SAME = ("tokens_NT", "mask_NT", "finished_N", "prompt_of_N", "reward_N", "correct_N")


def steps_of(branch, count):
    """The native batches of the first steps."""
    return [branch.collect("text", step, 2, 3) for step in range(count)]


def assert_replays(branch, place, batch):
    found = branch.replay(place)
    assert [problem.id for problem in found.problems] == [problem.id for problem in batch.problems]
    for name in SAME:
        assert torch.equal(getattr(found, name), getattr(batch, name)), name
        assert getattr(found, name).dtype == getattr(batch, name).dtype
    assert (found.temperature, found.version) == (batch.temperature, branch.version)


def test_a_branch_replays_the_last_batches_of_its_own_capability_the_oldest_first(make_branch, ending):
    branch = make_branch(policy=ending, keep=2)
    batches = steps_of(branch, 3)
    assert not all(batch.mask_NT.all() for batch in batches), "the responses of a batch differ in length"
    branch.collect("image", 3, 1, 2)
    branch.collect("text", 3, 1, 2, visit=True)
    branch.update([Part("native", batches[2])])
    for place in (0, 1):
        assert_replays(branch, place, batches[1 + place])
    assert branch.replay(0).version == 1


def test_a_branch_that_keeps_none_has_no_more_to_save(make_branch):
    branch = make_branch()
    steps_of(branch, 1)
    assert not [name for name in branch.state() if name.startswith("kept/")]
    with pytest.raises(
        CheckpointError, match=r"branch text: has kept 0 batches of its RLVR, opd\.replay asks for more"
    ):
        branch.replay(0)


def test_kept_batches_outlive_a_checkpoint(make_branch):
    branch, resumed = make_branch(keep=2), make_branch(keep=2)
    batches = steps_of(branch, 3)
    resumed.load_state(branch.state(), {})
    for place in (0, 1):
        assert_replays(resumed, place, batches[1 + place])
    fresh = resumed.collect("text", 3, 2, 3)
    assert_replays(resumed, 0, batches[2])
    assert_replays(resumed, 1, fresh)


def test_a_branch_takes_over_the_newest_of_more_batches_than_it_keeps(make_branch):
    branch, fewer = make_branch(keep=3), make_branch(keep=1)
    batches = steps_of(branch, 3)
    fewer.load_state(branch.state(), {})
    assert_replays(fewer, 0, batches[2])
