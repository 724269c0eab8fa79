"""Which rows run at once: the budget is never exceeded, short rows come first, long ones wait and go on."""

import random

import pytest

from copd.compute.queue import BLOCK, Change, Queue, rows_at_once


def played(prompt_tokens, response_tokens, budget, block):
    """The rows that run at each look and the tokens that the cache has room for, until all rows are done."""
    queue, done = Queue(prompt_tokens, budget, block), set()
    looks = []
    while queue.change(done) and queue.running:
        looks.append((list(queue.running), queue.cache_tokens))
        done = set()
        for n in queue.running:
            queue.made_N[n] = min(queue.made_N[n] + block, response_tokens[n])
            if queue.made_N[n] == response_tokens[n]:
                done.add(n)
    return looks, queue


@pytest.mark.parametrize("budget", [1, 60, 300, 2_000, 10**6])
@pytest.mark.parametrize("block", [1, 7, 32])
def test_every_row_is_done_and_only_a_row_alone_exceeds_the_budget(budget, block):
    draw = random.Random(budget + block)
    prompts = [draw.randint(1, 40) for _ in range(30)]
    responses = [draw.randint(1, 120) for _ in range(30)]
    looks, queue = played(prompts, responses, budget, block)
    assert queue.made_N == responses
    for running, tokens in looks:
        assert len(set(running)) == len(running)
        assert tokens <= budget or len(running) == 1
    assert budget < 10**6 or set(looks[0][0]) == set(range(30))
    if block == BLOCK:
        assert max(len(running) for running, _ in looks) == rows_at_once(prompts, budget)


def test_as_many_rows_begin_as_have_room_for_their_prompts_and_a_block_and_the_shortest_are_first():
    queue = Queue([20, 10, 10, 40, 10], token_budget=60, block=5)
    assert queue.change(()) == Change([], [1, 2, 4])  # 3 x (10 + 5); with the fourth, 4 x (20 + 5)
    assert queue.cache_tokens == 45


def test_when_rows_have_grown_over_the_budget_the_longest_waits_until_there_is_room_again():
    queue = Queue([10, 10, 30], token_budget=120, block=10)
    assert queue.change(()) == Change([], [0, 1, 2])  # 3 x (30 + 10)
    queue.made_N = [10, 10, 10]
    assert queue.change(()) == Change([0, 1], [])  # 3 x (40 + 10) is too much; the places of 0 and 1 stay
    assert queue.running == [0, 1]
    queue.made_N = [20, 20, 10]
    assert queue.change({0}) == Change([1], [2])  # (30 + 10) and 2 x (40 + 10)
    assert queue.running == [1, 2]
    assert queue.change({1, 2}) == Change([], [])
    assert not queue.running


def test_the_place_of_a_row_that_is_done_is_refilled():
    queue = Queue([10] * 9, token_budget=160, block=10)
    assert queue.change(()) == Change([], list(range(8)))
    assert queue.change(()) == Change(list(range(8)), [])
    assert queue.change({3}) == Change([0, 1, 2, 4, 5, 6, 7], [8])


def test_rows_of_unequal_lengths_neither_run_one_by_one_nor_in_tails_of_one_row():
    draw = random.Random(0)
    responses = [min(2_000, int(draw.expovariate(1 / 100)) + 1) for _ in range(256)]
    looks, _ = played([100] * 256, responses, budget=4_000, block=32)
    one_by_one = sum(-(-length // 32) for length in responses)  # 4,000 tokens have room for one row of 100 + 2,000
    assert len(looks) < one_by_one / 8
