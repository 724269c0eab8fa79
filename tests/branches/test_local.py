"""Branches of this process behind the awaitable handle: what the branch gives, in turns."""

import asyncio
from dataclasses import replace

import pytest
import torch

from copd.branches.actor import Actor, SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.local import local_handle
from copd.branches.signals import SampledToken
from copd.maths.distill import sampled_delta
from copd.model.learner import Learner
from copd.model.parity import checked_on
from copd.tasks.digits import Digits
from copd.types import Part, SettledPath, Split


@pytest.fixture
def make(policy):
    """A branch, and the handle on it."""

    def both(name="text", index=0):
        twin = policy.clone()
        tasks = {kind: Digits(kind) for kind in ("text", "image")}
        learner = Learner(twin, learning_rate=1e-3)
        sampling = SamplingSettings(seed=1, max_new_tokens=4, temperature=1.0)
        settings = ObjectiveSettings(SampledToken(sampled_delta))
        branch = Branch(name, index, twin, tasks, sampling, capability=name, learner=learner, settings=settings)
        return branch, local_handle(branch)

    return both


@pytest.fixture
def graded(written, policy, problems_of):
    reward_N = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    return replace(written(policy, problems_of["text"]), reward_N=reward_N, correct_N=reward_N == 1)


def test_a_handle_gives_what_its_branch_gives(make, graded):
    (branch, _), (_, handle) = make(), make()

    async def calls():
        return (
            await handle.collect("image", 2, 1, 2),
            await handle.score(graded),
            await handle.inspect(graded, 3, torch.zeros(6, 7, 1, dtype=torch.long)),
            await handle.texts(graded),
            await handle.pieces(graded, 2),
            await handle.answer_first(Split.TEST, "text", 2, 1, greedy=True),
            await handle.settled_path(),
        )

    collected, score, inspected, texts, pieces, validated, path = asyncio.run(calls())
    expected = branch.inspect(graded, 3, torch.zeros(6, 7, 1, dtype=torch.long))
    assert torch.equal(collected.tokens_NT, branch.collect("image", 2, 1, 2).tokens_NT)
    assert torch.equal(score.logp_NT, expected.logp_NT)
    assert score.topk_ids_NTK is None
    assert torch.equal(inspected.topk_ids_NTK, expected.topk_ids_NTK)
    assert torch.equal(inspected.at_ids_NTK, expected.at_ids_NTK)
    assert texts == branch.policy.texts(graded)
    assert pieces == branch.pieces(graded, 2)
    assert "".join(pieces) == texts[2]
    assert torch.equal(validated.tokens_NT, branch.answer_first(Split.TEST, "text", 2, 1, greedy=True).tokens_NT)
    assert path == SettledPath(True, True, checked_on(branch.policy))
    assert (handle.name, handle.capability, handle.allowed_tokens) == ("text", "text", branch.policy.allowed_tokens)


def test_branches_teach_each_other_at_once_and_both_update(make, graded, assert_same):
    (first, a), (second, b) = make("text", 0), make("image", 1)

    async def step():
        mine, theirs = await asyncio.gather(a.collect("image", 0, 1, 2), b.collect("text", 0, 1, 2))
        of_mine, of_theirs = await asyncio.gather(b.score(mine), a.score(theirs))
        return await asyncio.gather(
            a.update([Part("native", graded), Part("opd/image", mine, 1.0, of_mine)]),
            b.update([Part("opd/text", theirs, 1.0, of_theirs)]),
        )

    metrics = asyncio.run(step())
    assert (first.version, second.version) == (1, 1)
    assert metrics[0]["opd/image/delta_abs"] == metrics[1]["opd/text/delta_abs"] == 0.0, "they began with equal weights"
    assert metrics[0]["native/grad_norm"] > 0
    counts = asyncio.run(a.counts())
    assert counts == first.counts()
    assert counts["rollouts"] == 2


@pytest.mark.parametrize("call", ["collect", "score", "update", "inspect", "answer_first"])
def test_a_call_lets_the_others_take_their_turn_first(make, graded, call):
    _, handle = make()
    calls = {
        "collect": lambda: handle.collect("text", 0, 1, 1),
        "score": lambda: handle.score(graded),
        "update": lambda: handle.update([Part("native", graded)]),
        "inspect": lambda: handle.inspect(graded, 2),
        "answer_first": lambda: handle.answer_first(Split.TEST, "text", 1, 1, greedy=True),
    }
    order = []

    async def slow():
        await calls[call]()
        order.append("branch")

    async def quick():
        order.append("other")

    async def together():
        await asyncio.gather(slow(), quick())

    asyncio.run(together())
    assert order == ["other", "branch"]


def test_a_loaded_state_brings_weights_version_and_ledger(make, graded, assert_same, tmp_path):
    (branch, handle), (resumed, other) = make(), make()

    async def hand_over():
        await handle.collect("text", 0, 1, 2)
        await handle.update([Part("native", graded)])
        await handle.write_state(tmp_path / "state")
        await other.read_state(tmp_path / "state", await handle.counts())
        for each in (handle, other):
            await each.update([Part("native", replace(graded, version=1))])

    asyncio.run(hand_over())
    assert_same(resumed.learner.state(), branch.learner.state())
    assert resumed.version == branch.version == 2
    assert resumed.ledger.rollouts == branch.ledger.rollouts == 2
    assert resumed.ledger.tokens_trained == branch.ledger.tokens_trained


def test_an_error_of_the_branch_reaches_the_caller(make, graded):
    _, handle = make()
    stale = replace(asyncio.run(handle.score(graded)), version=9)
    with pytest.raises(ValueError, match="version 9"):
        asyncio.run(handle.update([Part("opd", graded, 1.0, stale)]))


def test_a_model_that_is_only_evaluated_needs_no_learner(policy, make):
    branch, _ = make()
    actor = local_handle(Actor("base", policy, {"text": Digits("text")}, branch.sampling))
    found = asyncio.run(actor.answer_first(Split.TEST, "text", 2, 1, greedy=True))
    assert actor.name == "base"
    assert torch.equal(found.tokens_NT, branch.answer_first(Split.TEST, "text", 2, 1, greedy=True).tokens_NT)
