"""Refill of native batches: which groups are learned on, what is counted, and which problems a step has."""

from dataclasses import replace

import pytest
import torch

from copd.branches.refilled import refilled, to_learn_on, with_signal
from copd.model.objectives import over_sequences
from copd.types import Part, Rollouts


def batch(problems, *rewards_P, finished=True, length=3):
    """Graded rollouts with the rewards of each group."""
    reward_N = torch.tensor([reward for group in rewards_P for reward in group], dtype=torch.float32)
    rows = len(reward_N)
    return Rollouts(
        problems=tuple(problems[: len(rewards_P)]),
        tokens_NT=torch.arange(rows * length).view(rows, length),
        mask_NT=torch.ones(rows, length, dtype=torch.bool),
        finished_N=torch.full((rows,), finished),
        logp_NT=torch.zeros(rows, length),
        prompt_of_N=torch.repeat_interleave(torch.tensor([len(group) for group in rewards_P])),
        temperature=1.0,
        reward_N=reward_N,
        correct_N=reward_N > 0,
        grader_failures=1,
    )


@pytest.fixture
def tries(problems_of):
    """Batches of two groups, of which one, none, two and two have signal; each with responses of another length."""
    given = [((0, 1), (1, 1)), ((0, 0), (1, 1)), ((1, 0), (0, 1)), ((1, 0), (0, 1))]
    return [batch(problems_of["text"], *groups, length=3 + place) for place, groups in enumerate(given)]


@pytest.mark.parametrize(("most", "made"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_batches_are_sampled_until_enough_groups_have_signal_or_no_try_is_left(tries, most, made):
    asked = []
    found = refilled(lambda place: asked.append(place) or tries[place], 2, most, mask_truncated=False)
    assert asked == list(range(made))
    assert len(found.problems) == 2 * made
    assert found.reward_N.tolist() == torch.cat([each.reward_N for each in tries[:made]]).tolist()
    assert found.grader_failures == made
    assert found.groups == (None if most == 1 else 2)


def test_rows_of_several_tries_keep_their_tokens_and_their_prompts(tries):
    found = refilled(lambda place: tries[place], 2, 3, mask_truncated=False)
    assert found.prompt_of_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert found.mask_NT.sum(-1).tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert found.tokens_NT[8].tolist() == tries[2].tokens_NT[0].tolist()


def test_the_first_groups_with_signal_are_learned_on_and_those_without_fill_what_is_left(tries):
    whole = refilled(lambda place: tries[place], 2, 3, mask_truncated=False)
    learned = to_learn_on(whole, mask_truncated=False)
    assert learned.reward_N.tolist() == [0, 1, 1, 0]
    assert learned.problems == (whole.problems[0], whole.problems[4])
    few = to_learn_on(refilled(lambda place: tries[place], 2, 2, mask_truncated=False), mask_truncated=False)
    assert few.reward_N.tolist() == [0, 1, 1, 1]
    assert to_learn_on(tries[1], mask_truncated=False) is tries[1]


def test_signal_is_that_of_the_responses_that_are_trained_on(problems_of):
    cut = replace(batch(problems_of["text"], (0, 1), (0, 1)), finished_N=torch.tensor([False, True, True, True]))
    assert with_signal(cut, mask_truncated=False).tolist() == [True, True]
    assert with_signal(cut, mask_truncated=True).tolist() == [False, True]


def test_a_reward_that_is_not_finite_is_kept_so_that_the_step_is_skipped(problems_of):
    bad = batch(problems_of["text"], (1, 1), (float("nan"), 1))
    assert with_signal(bad, mask_truncated=False).tolist() == [False, True]


@pytest.fixture
def refilling(make_branch, few, problems_of):
    """A branch whose batches are refilled twice, since its random answers earn nothing."""

    def make(refill=2, **options):
        branch = make_branch(**options)
        branch.sampling = replace(branch.sampling, refill=refill)
        return branch

    return make


def test_a_native_batch_is_refilled_with_problems_of_its_step_and_try_and_all_is_counted(refilling):
    branch = refilling()
    rollouts = branch.collect("text", 5, 2, 3)
    assert [p.id for p in rollouts.problems] == [f"text/train/3/{i}" for i in range(30, 36)]
    assert branch.ledger.rollouts == 18
    assert branch.ledger.tokens_generated == int(rollouts.mask_NT.sum())
    again = refilling().collect("text", 5, 2, 3)
    assert torch.equal(again.tokens_NT, rollouts.tokens_NT)
    rows = [tuple(row) for row in rollouts.tokens_NT.tolist()]
    assert len({tuple(rows[0:6]), tuple(rows[6:12]), tuple(rows[12:18])}) == 3, "each try has random numbers of its own"


def test_a_visit_is_never_refilled(refilling, make_branch):
    for task in ("image", "text"):
        found, plain = (each.collect(task, 2, 2, 2, visit=True) for each in (refilling(), make_branch()))
        assert [p.id for p in found.problems] == [p.id for p in plain.problems]
        assert torch.equal(found.tokens_NT, plain.tokens_NT)
        assert found.groups is None


def graded_by(rollouts, *with_signal):
    """The rollouts, in which only the given groups have rewards that vary."""
    reward_N = torch.zeros(len(rollouts.prompt_of_N))
    for group in with_signal:
        reward_N[int((rollouts.prompt_of_N == group).nonzero()[0])] = 1.0
    return replace(rollouts, reward_N=reward_N)


def test_an_update_is_that_of_the_kept_groups_alone_and_its_reward_that_of_all_that_was_sampled(
    refilling, make_branch, assert_same
):
    branch, plain = refilling(), make_branch()
    rollouts = graded_by(branch.collect("text", 0, 2, 3), 1, 4, 5)
    metrics = branch.update([Part("native", rollouts)])
    kept = to_learn_on(rollouts, mask_truncated=False)
    assert [p.id for p in kept.problems] == ["text/train/3/1", "text/train/3/4"]
    assert over_sequences(kept).keywords == {"sequences": 6}
    plainly = plain.update([Part("native", kept)])
    assert_same(branch.learner.state(), plain.learner.state())
    assert metrics["native/reward"] == pytest.approx(3 / 18)
    assert (metrics["native/tries"], metrics["native/groups_kept"]) == (3.0, pytest.approx(2 / 6))
    assert metrics["native/groups_with_signal"] == 1.0
    assert not {"native/tries", "native/groups_kept"} & set(plainly)


def test_what_is_kept_to_be_replayed_is_what_was_learned_on(refilling):
    branch, resumed = refilling(keep=1), refilling(keep=1)
    rollouts = branch.collect("text", 1, 2, 3)
    resumed.load_state(branch.state(), {})
    for each in (branch, resumed):
        found = each.replay(0)
        assert [p.id for p in found.problems] == [p.id for p in rollouts.problems[:2]]
        assert torch.equal(found.tokens_NT[found.mask_NT], rollouts.tokens_NT[:6][rollouts.mask_NT[:6]])
