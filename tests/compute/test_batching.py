"""Rows of rollouts, and their split into micro-batches."""

import math
from dataclasses import replace

import pytest
import torch

from copd.compute.batching import (
    distinct_rows,
    micro_batches,
    packed_tokens,
    plain_tokens,
    read_tokens,
    sampled_tokens,
    sampling_budget,
    stack_rows,
    take_rows,
)

PROMPT_LENGTHS = [20, 26, 24]
GROUPS = ((5, 3, 7), (1, 2), (4, 6, 2, 2))


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, problems_of["text"], GROUPS)


@pytest.fixture
def repeated(rollouts):
    """Ten rows of five responses: rows 0 to 4 answer one prompt, 5 to 8 the next, 9 the last."""
    return take_rows(rollouts, torch.tensor([0, 1, 0, 2, 0, 3, 4, 4, 3, 5]))


def as_lists(distinct):
    return [each.tolist() for each in distinct]


def split(rollouts, budget, rows=None, held=packed_tokens):
    rows = torch.arange(len(rollouts.tokens_NT)) if rows is None else rows
    batches = micro_batches(
        rows.tolist(),
        rollouts.prompt_of_N.tolist(),
        rollouts.mask_NT.sum(-1).tolist(),
        kind_P=[problem.kind for problem in rollouts.problems],
        prompt_length_P=PROMPT_LENGTHS,
        token_budget=budget,
        held=held,
    )
    return [batch.tolist() for batch in batches]


def tokens_of(rollouts, batch):
    """The lengths of a batch's prompts and of its rows."""
    prompts = [PROMPT_LENGTHS[p] for p in set(rollouts.prompt_of_N[batch].tolist())]
    return prompts, rollouts.mask_NT[batch].sum(-1).tolist()


def packed(rollouts, batch):
    prompts, rows = tokens_of(rollouts, batch)
    return sum(prompts) + sum(rows)


def plain(rollouts, batch):
    prompts, rows = tokens_of(rollouts, batch)
    return len(rows) * (max(prompts) + max(rows))


def sampled(rollouts, batch):
    prompts, rows = tokens_of(rollouts, batch)
    return max(len(prompts) * max(prompts) + len(rows) * max(rows), math.ceil(plain(rollouts, batch) / 2))


HELD = [(packed_tokens, packed), (plain_tokens, plain), (sampled_tokens, sampled)]
NAMES = ["packed", "plain", "sampled"]


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


def test_of_equal_rows_the_first_is_kept_and_counts_for_all(repeated):
    found = distinct_rows(repeated, torch.arange(10))
    assert as_lists(found) == [[0, 1, 3, 5, 6, 9], [3, 1, 1, 2, 2, 1], [0, 1, 0, 2, 0, 3, 4, 4, 3, 5]]


def test_among_the_rows_asked_for_the_first_given_is_kept(repeated):
    assert as_lists(distinct_rows(repeated, torch.tensor([8, 4, 1, 2, 5]))) == [[8, 4, 1], [2, 2, 1], [0, 1, 2, 1, 0]]
    assert as_lists(distinct_rows(repeated, torch.tensor([], dtype=torch.long))) == [[], [], []]


@pytest.mark.parametrize("padding", ["all alike", "like a token", "random"])
def test_what_stands_in_the_padding_does_not_tell_rows_apart(repeated, padding):
    random_NT = torch.randint(90, repeated.tokens_NT.shape, generator=torch.Generator().manual_seed(0))
    filling = {"all alike": -1, "like a token": repeated.tokens_NT[:, :1], "random": random_NT}[padding]
    other = replace(repeated, tokens_NT=torch.where(repeated.mask_NT, repeated.tokens_NT, filling))
    assert as_lists(distinct_rows(other, torch.arange(10))) == as_lists(distinct_rows(repeated, torch.arange(10)))


def test_a_response_and_its_own_beginning_are_two(rollouts):
    twice = take_rows(rollouts, torch.tensor([0, 0]))
    shorter_NT = twice.mask_NT.clone()
    shorter_NT[1, -1] = False
    found = distinct_rows(replace(twice, mask_NT=shorter_NT), torch.arange(2))
    assert as_lists(found) == [[0, 1], [1, 1], [0, 1]]


def test_the_same_tokens_in_answer_to_two_prompts_are_two(repeated):
    other = replace(repeated, prompt_of_N=torch.tensor([0, 0, 1, 0, 0, 1, 1, 1, 2, 2]))
    assert distinct_rows(other, torch.arange(10)).rows_D.tolist() == [0, 1, 2, 3, 5, 6, 8, 9]


def test_equal_rows_whose_keys_differ_are_told_apart(repeated):
    key_N = torch.tensor([0.5, 0.5, 0.5, 0.5, -1.0, 0.0, torch.nan, torch.nan, -0.0, 0.5])
    found = distinct_rows(repeated, torch.arange(10), key_N)
    assert as_lists(found) == [
        [0, 1, 3, 4, 5, 6, 7, 9],
        [2, 1, 1, 1, 2, 1, 1, 1],
        [0, 1, 0, 2, 3, 4, 5, 6, 4, 7],
    ]


@pytest.mark.parametrize("budget", [1, 30, 60, 100, 10_000])
def test_every_row_is_in_exactly_one_micro_batch(rollouts, budget):
    assert sorted(n for batch in split(rollouts, budget) for n in batch) == list(range(9))


@pytest.mark.parametrize(("held", "cost"), HELD, ids=NAMES)
@pytest.mark.parametrize("budget", [30, 60, 100])
def test_no_micro_batch_of_several_rows_exceeds_the_budget(rollouts, budget, held, cost):
    batches = split(rollouts, budget, held=held)
    assert all(cost(rollouts, batch) <= budget for batch in batches if len(batch) > 1)
    assert len(batches) > 1


def test_a_row_that_alone_exceeds_the_budget_is_a_batch_of_its_own(rollouts):
    assert split(rollouts, 1) == [[n] for n in range(9)]


@pytest.mark.parametrize(("held", "cost"), HELD, ids=NAMES)
def test_one_batch_holds_everything_within_the_budget(rollouts, held, cost):
    whole = cost(rollouts, list(range(9)))
    assert split(rollouts, whole, held=held) == [list(range(9))]
    assert len(split(rollouts, whole - 1, held=held)) == 2


def test_what_a_batch_holds_is_never_more_packed_than_padded(rollouts):
    """So packed log-probs have no more batches than padded tokens would give."""
    everything = list(range(9))
    assert (packed(rollouts, everything), sampled(rollouts, everything)) == (102, 149)
    assert plain(rollouts, everything) == 297


def test_a_prefill_holds_prompts_padded_to_the_longest(rollouts):
    assert split(rollouts, 3 * 26, held=read_tokens) == [list(range(9))]
    assert split(rollouts, 3 * 26 - 1, held=read_tokens) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def sampled_at_once(prompts, prompt, rows, response, cache_tokens=None):
    """The rows of each batch of sampling, where prompts are equally long and a micro-batch has 16,384 tokens."""
    held, budget = sampling_budget(16_384, cache_tokens)
    batches = micro_batches(
        range(prompts * rows),
        [n // rows for n in range(prompts * rows)],
        [response] * (prompts * rows),
        kind_P=["text"] * prompts,
        prompt_length_P=[prompt] * prompts,
        token_budget=budget,
        held=held,
    )
    return [len(batch) for batch in batches]


def test_a_cache_counts_a_prompt_with_each_of_its_rows_and_has_its_own_budget_or_two_micro_batches():
    assert sampled_at_once(1, 13_000, 8, 400) == [2, 2, 2, 2]
    assert sampled_at_once(1, 13_000, 8, 400, cache_tokens=16_384) == [1] * 8
    assert sampled_at_once(1, 13_000, 8, 400, cache_tokens=4 * 13_400) == [4, 4]
    assert sampled_at_once(1, 13_000, 8, 400, cache_tokens=8 * 13_400) == [8]


def test_a_step_of_the_demo_is_sampled_at_once_and_its_evaluation_as_many_rows_as_a_micro_batch_has_tokens_for():
    """So the sizes of batches, which rounding depends on, are those with which the results of docs were made."""
    assert sampled_at_once(24, 64, 8, 36) == [192]
    assert sampled_at_once(500, 64, 1, 36) == [163, 163, 163, 11]
    assert sampled_at_once(1000, 64, 4, 36)[0] == 4 * (16_384 // (64 + 4 * 36))


def test_only_the_rows_asked_for_are_split(rollouts):
    assert split(rollouts, 10_000, torch.tensor([8, 2])) == [[2, 8]]
    assert split(rollouts, 10_000, torch.tensor([], dtype=torch.long)) == []


def test_a_group_too_large_for_a_batch_counts_its_prompt_once_in_each(rollouts):
    """Of the last group, with a prompt of 24 tokens, the first half holds 34; the last three rows 32."""
    assert split(rollouts, 33, torch.tensor([6, 5, 7, 8])) == [[6], [5, 7, 8]]
    assert split(rollouts, 31, torch.tensor([6, 5, 7, 8])) == [[6], [5], [7, 8]]


def test_a_group_too_large_for_a_batch_is_halved_until_its_pieces_fit(rollouts):
    """Four rows of one prompt of 24 tokens. Two of them hold 34 and 28 tokens, three 36."""
    last = torch.arange(5, 9)
    assert split(rollouts, 38, last) == [[5, 6, 7, 8]]
    assert split(rollouts, 37, last) == [[5, 6], [7, 8]]
    assert split(rollouts, 33, last) == [[5], [6], [7, 8]]


@pytest.mark.parametrize("budget", [48, 80, 120])
def test_a_group_that_fits_into_one_batch_is_not_torn_apart(rollouts, budget):
    batch_of = {n: b for b, batch in enumerate(split(rollouts, budget)) for n in batch}
    for p in range(3):
        group = (rollouts.prompt_of_N == p).nonzero()[:, 0].tolist()
        if packed(rollouts, group) <= budget:
            assert len({batch_of[n] for n in group}) == 1, f"the rows of prompt {p} stand in several batches"


def test_a_micro_batch_holds_one_kind_of_prompt(written, policy, problems_of):
    problems = [problems_of["video"][0], problems_of["text"][0], problems_of["video"][1]]
    rollouts = written(policy, problems, GROUPS)
    batches = split(rollouts, 10_000)
    kinds = [{rollouts.problems[p].kind for p in rollouts.prompt_of_N[batch].tolist()} for batch in batches]
    assert sorted(map(sorted, kinds)) == [["text"], ["video"]]


@pytest.mark.parametrize("budget", [1, 2_000, 10**9])
def test_the_work_of_a_split_grows_with_the_rows_and_no_faster(budget):
    class Counted(list):
        def __getitem__(self, n):
            looked_up.append(n)
            return super().__getitem__(n)

    rows, looked_up = 1_000, []
    prompts, lengths = Counted(n // 4 for n in range(rows)), Counted([7] * rows)
    micro_batches(
        range(rows),
        prompts,
        lengths,
        kind_P=["text"] * rows,
        prompt_length_P=[20] * rows,
        token_budget=budget,
        held=packed_tokens,
    )
    assert len(looked_up) < 10 * rows
