"""Teachers that hold their weights through a phase, and the lesson of a branch by itself."""

from dataclasses import replace

import pytest
import torch

from copd.branches.branch import VISIT_STRIDE
from copd.types import Part


@pytest.fixture
def graded(written, policy, problems_of):
    reward_N = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    return replace(written(policy, problems_of["text"]), reward_N=reward_N, correct_N=reward_N == 1)


def test_a_branch_that_holds_teaches_as_it_was(make_branch, graded, assert_same):
    branch, before = make_branch(), make_branch().score(graded)
    branch.hold()
    branch.update([Part("native", graded)])
    held = branch.score(graded)
    assert torch.equal(held.logp_NT, before.logp_NT)
    assert (held.version, branch.version) == (0, 1)
    branch.release()
    current = branch.score(graded)
    assert not torch.equal(current.logp_NT, before.logp_NT)
    assert current.version == 1


def test_holding_again_holds_the_weights_of_now(make_branch, graded):
    branch = make_branch()
    branch.hold()
    branch.update([Part("native", graded)])
    branch.hold()
    assert branch.score(graded).version == 1
    assert torch.equal(branch.score(graded).logp_NT, branch.inspect(graded).logp_NT)


def test_what_is_held_goes_on_from_a_state(make_branch, graded, assert_same):
    branch, resumed = make_branch(), make_branch()
    branch.hold()
    branch.update([Part("native", graded)])
    resumed.load_state({name: tensor.clone() for name, tensor in branch.state().items()}, branch.counts())
    assert torch.equal(resumed.score(graded).logp_NT, branch.score(graded).logp_NT)
    assert resumed.score(graded).version == 0
    assert_same(resumed.state(), branch.state())


def test_a_state_without_anything_held_releases(make_branch, graded):
    branch = make_branch()
    state = {name: tensor.clone() for name, tensor in branch.state().items()}
    branch.hold()
    branch.load_state(state, branch.counts())
    branch.update([Part("native", graded)])
    assert branch.score(graded).version == 1
    assert not any(name.startswith("held") for name in branch.state())


def test_a_visit_to_ones_own_capability_has_other_problems_and_other_numbers(make_branch):
    branch = make_branch()
    native, visit = branch.collect("text", 4, 2, 3), branch.collect("text", 4, 2, 3, visit=True)
    assert [int(problem.id.rpartition("/")[2]) for problem in native.problems] == [8, 9]
    assert [int(problem.id.rpartition("/")[2]) for problem in visit.problems] == [
        VISIT_STRIDE * (1 + branch.index) + 8 + i for i in range(2)
    ]
    again = branch.collect("text", 4, 2, 3, visit=True)
    assert torch.equal(again.tokens_NT, visit.tokens_NT)
