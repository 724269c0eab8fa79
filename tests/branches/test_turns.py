"""Turns on a device: who is where, and that taking turns changes no number.

Without a second device the order of moves is recorded; on a machine with cuda the last test runs on two real ones.
"""

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.local import Turns, finish, local_handle
from copd.branches.signals import SampledToken
from copd.maths.distill import clamped_delta
from copd.measure.behaviour import measure_behaviour
from copd.model.learner import Learner
from copd.phases import mutual_opd
from copd.schedule import Batches
from copd.topology import Edge
from copd.types import Part, Split

SETTINGS = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))


class Recorded:
    """Stands where an actor would, and writes down where it is moved."""

    def __init__(self, name, home, moves):
        self.name, self.home, self.moves = name, home, moves

    def move(self, device):
        self.moves.append((self.name, str(device)))


def branch_of(policy, few, problems_of, name, index):
    task = few("text", problems_of["text"])
    learner = Learner(policy, learning_rate=1e-3)
    sampling = SamplingSettings(0, 6, 1.0)
    return Branch(name, index, policy, {"text": task}, sampling, capability="text", learner=learner, settings=SETTINGS)


def test_one_is_there_and_the_one_before_leaves_first():
    moves = []
    a, b = (Recorded(name, "cuda:0", moves) for name in "ab")
    turns = Turns()
    for actor in (a, b):
        turns.wait(actor)
    assert moves == [("a", "cpu"), ("b", "cpu")]
    moves.clear()
    for actor in (a, a, b, a):
        turns.take(actor)
    assert moves == [("a", "cuda:0"), ("a", "cpu"), ("b", "cuda:0"), ("b", "cpu"), ("a", "cuda:0")]


def test_branches_on_devices_of_their_own_do_not_displace_each_other():
    moves = []
    a, b = (Recorded(name, home, moves) for name, home in (("a", "cuda:0"), ("b", "cuda:1")))
    turns = Turns()
    for actor in (a, b, a, b):
        turns.take(actor)
    assert moves == [("a", "cuda:0"), ("b", "cuda:1")]


def test_a_branch_keeps_its_turn_through_a_phase_of_its_own(policy, few, problems_of, monkeypatch):
    moves, turns = [], Turns()
    handles = []
    for i, name in enumerate("ab"):
        branch = branch_of(policy.clone(), few, problems_of, name, i)
        monkeypatch.setattr(branch, "move", lambda device, name=name: moves.append(name))
        handles.append(local_handle(branch, turns))

    async def phase(handle):
        for step in range(3):
            await handle.update([Part("native", await handle.collect("text", step, 1, 2))])

    async def both():
        await asyncio.gather(*(phase(handle) for handle in handles))

    finish(both())
    assert moves == ["a", "a", "b"], "a comes, a leaves, b comes"


def comings(policy, few, problems_of, monkeypatch, work):
    """The branches that came to the device, in order, while `work` ran with handles of three branches."""
    turns, came, handles = Turns(), [], {}
    tasks = {kind: few(kind, problems_of[kind]) for kind in ("text", "image", "video")}
    for i, name in enumerate(tasks):
        copy = policy.clone()
        sampling, learner = SamplingSettings(0, 6, 1.0), Learner(copy, learning_rate=1e-3)
        branch = Branch(name, i, copy, tasks, sampling, capability=name, learner=learner, settings=SETTINGS)
        branch.home = torch.device("cuda:0")
        monkeypatch.setattr(branch, "move", lambda device, name=name: device == "cpu" or came.append(name))
        handles[name] = local_handle(branch, turns)
    finish(work(handles))
    return came


def test_a_step_of_mutual_opd_exchanges_branches_five_times_after_the_first_has_come(
    policy, few, problems_of, monkeypatch
):
    edges = [Edge(a, b, 1.0) for a in problems_of for b in problems_of if a != b]
    observer = SimpleNamespace(updated=lambda *_: None)

    async def step(handles):
        await mutual_opd(handles, edges, 0, Batches(2, 2, 2, 2), observer, version=0)

    came = comings(policy, few, problems_of, monkeypatch, step)
    assert len(came) == 1 + 5, came
    assert came[0] != came[1] != came[2] != came[0], "each answers before the last of them scores"


def test_a_measure_of_three_branches_exchanges_them_ten_times_after_the_first_has_come(
    policy, few, problems_of, monkeypatch
):
    async def measure(handles):
        await measure_behaviour(handles, list(problems_of), problems=2, ks=(1, 2))

    assert len(comings(policy, few, problems_of, monkeypatch, measure)) == 1 + 10


def test_a_call_that_is_given_up_leaves_no_turn_behind():
    moves, turns = [], Turns()
    a, b = (Recorded(name, "cuda:0", moves) for name in "ab")

    async def given_up():
        turns.take(a)
        waiting = asyncio.ensure_future(turns.come(b))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(turns.come(a), 5)

    asyncio.run(given_up())
    assert moves == [("a", "cuda:0")]


def test_every_call_that_computes_takes_a_turn(policy, few, problems_of, monkeypatch):
    turns, takers = Turns(), []
    branch = branch_of(policy.clone(), few, problems_of, "a", 0)
    monkeypatch.setattr(turns, "take", lambda actor: takers.append(actor))
    handle = local_handle(branch, turns)

    async def calls():
        rollouts = await handle.collect("text", 0, 2, 2)
        await handle.score(rollouts)
        await handle.inspect(rollouts, 2)
        await handle.update([Part("native", rollouts)])
        await handle.answer_first(Split.VALIDATION, "text", 1, 1, greedy=True)

    finish(calls())
    assert takers == [branch] * 5


def test_taking_turns_changes_no_number(policy, few, problems_of, assert_same):
    def trained(turns):
        branches = [branch_of(policy.clone(), few, problems_of, name, i) for i, name in enumerate("ab")]
        handles = [local_handle(branch, turns) for branch in branches]

        async def steps():
            for step in range(2):
                for handle in handles:
                    await handle.update([Part("native", await handle.collect("text", step, 2, 4))])
            return [branch.state() for branch in branches]

        return finish(steps())

    for alone, in_turn in zip(trained(None), trained(Turns()), strict=True):
        assert_same(alone, in_turn)


def test_weights_optimizer_and_masks_move_together(policy, few, problems_of):
    """To torch's meta device, which holds no values: where everything would be, not that it could compute there."""
    branch = branch_of(policy.clone(), few, problems_of, "a", 0)
    branch.update([Part("native", branch.collect("text", 0, 2, 4))])
    branch.move("meta")
    state = [value for tensors in branch.learner.optimizer.state.values() for value in tensors.values()]
    assert len(state) == 3 * len(branch.learner.named_parameters)
    moved = [*branch.policy.model.parameters(), *state, branch.policy.banned_V, branch.policy.end_ids]
    assert {str(tensor.device) for tensor in moved} == {"meta"} == {str(branch.policy.device)}


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")


@needs_cuda
def test_weights_that_have_waited_come_back_as_they_were_from_locked_memory(policy):
    on_card = policy.clone(device="cuda:0")
    for _ in range(2):
        on_card.to("cpu")
        places = {name: weight.data_ptr() for name, weight in on_card.model.named_parameters()}
        assert all(weight.is_pinned() for weight in on_card.model.parameters())
        on_card.to("cuda:0")
    assert all(torch.equal(weight, policy.weights()[name]) for name, weight in on_card.weights().items())
    on_card.to("cpu")
    assert places == {name: weight.data_ptr() for name, weight in on_card.model.named_parameters()}


@needs_cuda
def test_on_a_card_only_the_branch_whose_turn_it_is_takes_its_memory(policy, few, problems_of):
    turns = Turns()
    branches = [branch_of(policy.clone(device="cuda:0"), few, problems_of, name, i) for i, name in enumerate("ab")]
    handles = [local_handle(branch, turns) for branch in branches]
    for branch in branches:
        turns.wait(branch)

    async def steps():
        for step in range(2):
            for handle in handles:
                await handle.update([Part("native", await handle.collect("text", step, 2, 4))])
                there = [next(b.policy.model.parameters()).device.type for b in branches]
                assert sorted(there) == ["cpu", "cuda"]

    finish(steps())
