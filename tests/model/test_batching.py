"""Rows of rollouts, and their split into micro-batches."""

from dataclasses import replace

import pytest
import torch

from copd.model.batching import micro_batches, stack_rows, take_rows

PROMPT_LENGTHS = [20, 26, 24]
GROUPS = ((5, 3, 7), (1, 2), (4, 6, 2, 2))


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, problems_of["text"], GROUPS)


def split(rollouts, budget, rows=None):
    rows = torch.arange(len(rollouts.tokens_NT)) if rows is None else rows
    batches = micro_batches(
        rows.tolist(),
        rollouts.prompt_of_N.tolist(),
        rollouts.mask_NT.sum(-1).tolist(),
        kind_P=[problem.kind for problem in rollouts.problems],
        prompt_length_P=PROMPT_LENGTHS,
        token_budget=budget,
    )
    return [batch.tolist() for batch in batches]


def cost(rollouts, batch):
    prompts = set(rollouts.prompt_of_N[batch].tolist())
    widest = int(rollouts.mask_NT[batch].sum(-1).max())
    return len(prompts) * max(PROMPT_LENGTHS[p] for p in prompts) + len(batch) * widest


def test_taken_rows_keep_their_problem_their_tokens_and_their_reward(rollouts):
    rollouts = replace(rollouts, reward_N=torch.arange(9.0), correct_N=torch.arange(9) > 4)
    rows = torch.tensor([7, 0, 5])
    taken = take_rows(rollouts, rows)
    assert [taken.problems[p] for p in taken.prompt_of_N] == [rollouts.problems[p] for p in rollouts.prompt_of_N[rows]]
    assert taken.reward_N.tolist() == [7.0, 0.0, 5.0]
    assert taken.correct_N.tolist() == [True, False, True]
    assert torch.equal(taken.finished_N, rollouts.finished_N[rows])
    for mine, n in enumerate(rows.tolist()):
        length = int(rollouts.mask_NT[n].sum())
        assert int(taken.mask_NT[mine].sum()) == length
        assert torch.equal(taken.tokens_NT[mine, :length], rollouts.tokens_NT[n, :length])


def test_taken_rows_bring_only_the_problems_they_answer_and_no_common_padding(rollouts):
    taken = take_rows(rollouts, torch.tensor([3, 4]))
    assert taken.problems == (rollouts.problems[1],)
    assert taken.tokens_NT.shape == taken.mask_NT.shape == taken.logp_NT.shape == (2, 2)


def test_stacked_rows_are_padded_on_the_right():
    stacked = stack_rows([torch.ones(1, 1), torch.full((2, 3), 2.0)])
    assert stacked.tolist() == [[1, 0, 0], [2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("budget", [1, 30, 60, 100, 10_000])
def test_every_row_is_in_exactly_one_micro_batch(rollouts, budget):
    assert sorted(n for batch in split(rollouts, budget) for n in batch) == list(range(9))


@pytest.mark.parametrize("budget", [30, 60, 100])
def test_no_micro_batch_of_several_rows_exceeds_the_budget(rollouts, budget):
    batches = split(rollouts, budget)
    assert all(cost(rollouts, batch) <= budget for batch in batches if len(batch) > 1)
    assert len(batches) > 1


def test_a_row_that_alone_exceeds_the_budget_is_a_batch_of_its_own(rollouts):
    assert split(rollouts, 1) == [[n] for n in range(9)]


def test_one_batch_holds_everything_within_the_budget(rollouts):
    whole = cost(rollouts, list(range(9)))
    assert split(rollouts, whole) == [list(range(9))]
    assert len(split(rollouts, whole - 1)) == 2


def test_only_the_rows_asked_for_are_split(rollouts):
    assert split(rollouts, 10_000, torch.tensor([8, 2])) == [[2, 8]]
    assert split(rollouts, 10_000, torch.tensor([], dtype=torch.long)) == []


@pytest.mark.parametrize("budget", [48, 80, 120])
def test_a_group_that_fits_into_one_batch_is_not_torn_apart(rollouts, budget):
    batch_of = {n: b for b, batch in enumerate(split(rollouts, budget)) for n in batch}
    for p in range(3):
        group = (rollouts.prompt_of_N == p).nonzero()[:, 0].tolist()
        if cost(rollouts, group) <= budget:
            assert len({batch_of[n] for n in group}) == 1, f"the rows of prompt {p} stand in several batches"


def test_a_micro_batch_holds_one_kind_of_prompt(written, policy, problems_of):
    problems = [problems_of["video"][0], problems_of["text"][0], problems_of["video"][1]]
    rollouts = written(policy, problems, GROUPS)
    batches = split(rollouts, 10_000)
    kinds = [{rollouts.problems[p].kind for p in rollouts.prompt_of_N[batch].tolist()} for batch in batches]
    assert sorted(map(sorted, kinds)) == [["text"], ["video"]]
