"""Sampling: transformers' own answers, one random number per row and position, rows that finish and leave."""

import pytest
import torch
from counted_bytes import most_added

from copd.compute import decode as decoding
from copd.compute.batching import take_rows
from copd.compute.decode import CachedPrefixes, decode, distinct_prefixes, next_tokens, pick, settle
from copd.compute.forward import Forward
from copd.maths.cut import WHOLE, Cut
from copd.model import builtin_sampler

NEW_TOKENS = 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def answers(rollouts):
    """The response of each row as a list of ids."""
    return [tokens[mask].tolist() for tokens, mask in zip(rollouts.tokens_NT, rollouts.mask_NT, strict=True)]


@torch.no_grad()
def decode_rows(policy, problems, prompt_of_N, uniform_NT, max_new_tokens=NEW_TOKENS):
    """`decode` for chosen rows with chosen numbers."""
    prompts = policy.encoder.encode(problems, policy.device)
    prefixes, logits_PV = policy.forward.start_shared(prompts, len(prompt_of_N), max_new_tokens)
    return decode(
        prefixes,
        logits_PV,
        prompt_of_N,
        banned_V=policy.banned_V,
        end_ids=policy.end_ids,
        uniform_NT=uniform_NT,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
    )


@pytest.mark.parametrize("name", ["policy", "ending", "solver"])
def test_greedy_answers_are_those_of_generate_token_for_token(request, name, problems_of, processed, kind):
    policy = request.getfixturevalue(name)
    limit = 24 if name == "solver" else NEW_TOKENS
    found = policy.sample(problems_of[kind], max_new_tokens=limit)
    for answer, problem in zip(answers(found), problems_of[kind], strict=True):
        inputs = processed(problem)
        suppressed = policy.banned_V.nonzero()[:, 0].tolist()
        output = policy.model.generate(**inputs, do_sample=False, max_new_tokens=limit, suppress_tokens=suppressed)
        assert answer == output[0, inputs["input_ids"].shape[1] :].tolist()


def test_some_greedy_answers_of_the_policy_inclined_to_end_are_shorter_than_others(ending, problems_of):
    finished = [
        bool(end) for three in problems_of.values() for end in ending.sample(three, max_new_tokens=5).finished_N
    ]
    assert 0 < sum(finished) < len(finished), "otherwise the comparison with `generate` drops no row"


@pytest.mark.parametrize("name", ["ending", "solver"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_samplers_log_probs_are_the_trainers(request, name, problems_of, kind, temperature):
    policy = request.getfixturevalue(name)
    rollouts = policy.sample(
        problems_of[kind], rollouts_per_prompt=3, generator=seeded(), max_new_tokens=NEW_TOKENS, temperature=temperature
    )
    with torch.no_grad():
        torch.testing.assert_close(rollouts.logp_NT, policy.logp(rollouts), atol=5e-5, rtol=0)


def test_the_samplers_log_probs_are_the_trainers_for_greedy_answers_too(policy, problems_of, kind):
    rollouts = policy.sample(problems_of[kind], max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(rollouts.logp_NT, policy.logp(rollouts), atol=5e-5, rtol=0)


def test_a_response_stops_at_its_end_token_or_at_the_limit(ending, problems_of, kind):
    rollouts = ending.sample(problems_of[kind], rollouts_per_prompt=4, generator=seeded(), max_new_tokens=NEW_TOKENS)
    assert 0 < int(rollouts.finished_N.sum()) < 12
    end = int(ending.end_ids)
    for answer, finished in zip(answers(rollouts), rollouts.finished_N.tolist(), strict=True):
        assert end not in answer[:-1]
        assert finished == (answer[-1] == end)
        assert finished or len(answer) == NEW_TOKENS
    assert not rollouts.logp_NT[~rollouts.mask_NT].any()
    assert bool((rollouts.mask_NT.long().diff(dim=1) <= 0).all()), "padding stands on the right"


def test_an_end_token_in_the_last_place_counts_as_finished(ending, problems_of):
    free = ending.sample(problems_of["text"], rollouts_per_prompt=4, generator=seeded(), max_new_tokens=NEW_TOKENS)
    length = int(free.mask_NT[free.finished_N].sum(-1).max())
    row = int((free.finished_N & (free.mask_NT.sum(-1) == length)).nonzero()[0])
    uniform_NT = torch.rand(12, NEW_TOKENS, generator=seeded(), dtype=torch.float64)
    prompt_of_N = torch.arange(3).repeat_interleave(4)
    cut = decode_rows(ending, problems_of["text"], prompt_of_N, uniform_NT, length)
    assert answers(cut)[row] == answers(free)[row]
    assert bool(cut.finished_N[row])
    shorter = decode_rows(ending, problems_of["text"], prompt_of_N, uniform_NT, length - 1)
    assert not shorter.finished_N[row]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_rows_answer_does_not_depend_on_the_rows_beside_it(ending64, problems_of, kind, greedy):
    prompt_of_N = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    uniform_NT = None if greedy else torch.rand(9, NEW_TOKENS, generator=seeded(3), dtype=torch.float64)
    whole = decode_rows(ending64, problems_of[kind], prompt_of_N, uniform_NT)
    assert greedy or len({len(answer) for answer in answers(whole)}) > 1, "rows have to finish at different places"
    for rows in ([4], [8, 1, 5], [0, 2, 3, 6, 7]):
        rows = torch.tensor(rows)
        part = decode_rows(
            ending64, problems_of[kind], prompt_of_N[rows], None if uniform_NT is None else uniform_NT[rows]
        )
        assert answers(part) == [answers(whole)[n] for n in rows.tolist()]
        assert torch.equal(part.finished_N, whole.finished_N[rows])
        length = part.logp_NT.shape[1]
        torch.testing.assert_close(part.logp_NT, whole.logp_NT[rows, :length], atol=1e-6, rtol=0)


def test_problems_of_mixed_kinds_keep_their_order_and_each_row_answers_its_own_prompt(ending, problems_of):
    mixed = [problems_of[kind][i] for kind, i in [("video", 0), ("text", 1), ("image", 0), ("text", 0), ("video", 2)]]
    rollouts = ending.sample(mixed, rollouts_per_prompt=2, max_new_tokens=NEW_TOKENS)
    assert rollouts.problems == tuple(mixed)
    assert rollouts.prompt_of_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    alone = {
        id(problem): (answer, finished)
        for kind in problems_of
        for sampled in [ending.sample(problems_of[kind], max_new_tokens=NEW_TOKENS)]
        for problem, answer, finished in zip(
            problems_of[kind], answers(sampled), sampled.finished_N.tolist(), strict=True
        )
    }
    found = zip(answers(rollouts), rollouts.finished_N.tolist(), strict=True)
    assert list(found) == [alone[id(mixed[p])] for p in rollouts.prompt_of_N.tolist()]
    assert len({tuple(answer) for answer, _ in alone.values()}) > 4, "the prompts have to have different answers"


@pytest.mark.parametrize("budget", [1, 60, 140])
def test_answers_do_not_depend_on_the_split_into_batches(ending64, problems_of, budget, monkeypatch):
    problems = [problem for three in problems_of.values() for problem in three]
    small = ending64.clone(cache_tokens=budget)
    started = []
    plainly = builtin_sampler.sample_batch
    monkeypatch.setattr(
        builtin_sampler,
        "sample_batch",
        lambda *given: (given[0] is small and started.append(given[3])) or plainly(*given),
    )
    whole, parts = (
        policy.sample(problems, rollouts_per_prompt=3, generator=seeded(), max_new_tokens=NEW_TOKENS)
        for policy in (ending64, small)
    )
    assert answers(parts) == answers(whole)
    torch.testing.assert_close(parts.logp_NT, whole.logp_NT, rtol=0, atol=1e-6)
    assert len(started) > 3
    lengths = small.encoder.lengths(problems)
    for prompt_of_M in (rows.tolist() for rows in started):
        prompts = set(prompt_of_M)
        tokens = len(prompt_of_M) * (max(lengths[p] for p in prompts) + NEW_TOKENS)
        assert len(prompt_of_M) == 1 or tokens <= budget


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_cache_has_no_more_tokens_than_its_budget(ending, problems_of, rows, monkeypatch):
    problems = problems_of["text"]
    budget = rows * (max(ending.encoder.lengths(problems)) + NEW_TOKENS)
    held, plainly = [], Forward.start_shared

    def started(*given):
        prefixes, logits_PV = plainly(*given)
        cached = prefixes._step._cached
        held.append(cached.shape[2] * cached.shape[4])
        return prefixes, logits_PV

    monkeypatch.setattr(Forward, "start_shared", started)
    small = ending.clone(cache_tokens=budget)
    small.sample(problems, rollouts_per_prompt=8, generator=seeded(), max_new_tokens=NEW_TOKENS)
    assert budget / 2 < max(held) <= budget


def test_sampled_rows_of_mixed_kinds_score_as_they_were_sampled(ending, problems_of):
    mixed = [problems_of[kind][i] for kind, i in [("image", 2), ("text", 1), ("video", 0), ("text", 0)]]
    rollouts = ending.sample(mixed, rollouts_per_prompt=3, generator=seeded(), max_new_tokens=NEW_TOKENS)
    torch.testing.assert_close(ending.score(rollouts).logp_NT, rollouts.logp_NT, atol=1e-5, rtol=0)
    for n in (1, 4, 8, 11):
        row = take_rows(rollouts, torch.tensor([n]))
        torch.testing.assert_close(ending.score(row).logp_NT, row.logp_NT, atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_rollouts_and_another_one_others(policy, problems_of):
    def sample(seed):
        return policy.sample(problems_of["text"], rollouts_per_prompt=2, generator=seeded(seed), max_new_tokens=6)

    assert answers(sample(1)) == answers(sample(1)) != answers(sample(2))


def test_rows_of_one_prompt_get_numbers_of_their_own(policy, problems_of):
    rollouts = policy.sample(
        problems_of["text"][:1], rollouts_per_prompt=8, generator=seeded(), max_new_tokens=4, temperature=5.0
    )
    assert len({tuple(answer) for answer in answers(rollouts)}) == 8


def test_sampling_takes_no_global_random_numbers(policy, problems_of):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    policy.sample(problems_of["text"], generator=seeded(), max_new_tokens=3)
    assert torch.equal(torch.rand(2), expected)


def test_first_tokens_come_as_often_as_their_probability_says(policy, problems_of):
    rollouts = policy.sample(
        problems_of["text"][:1], rollouts_per_prompt=4000, generator=seeded(), max_new_tokens=1, temperature=0.3
    )
    count_V = torch.bincount(rollouts.tokens_NT[:, 0], minlength=len(policy.banned_V))
    one = take_rows(rollouts, torch.tensor([0]))
    everything = torch.arange(len(count_V)).expand(1, 1, -1)
    probability_V = policy.score(one, ids_NTK=everything).at_ids_NTK[0, 0].exp()
    spread_V = (4000 * probability_V * (1 - probability_V)).sqrt()
    assert bool(((count_V - 4000 * probability_V).abs() <= 5 * spread_V + 1).all())


def test_a_low_temperature_samples_the_greedy_answer(policy64, problems_of):
    cold = policy64.sample(problems_of["text"], generator=seeded(), max_new_tokens=6, temperature=1e-6)
    assert answers(cold) == answers(policy64.sample(problems_of["text"], max_new_tokens=6))


def test_a_limit_of_one_token_needs_no_second_forward(policy, problems_of, kind):
    rollouts = policy.sample(problems_of[kind], rollouts_per_prompt=2, generator=seeded(), max_new_tokens=1)
    assert rollouts.tokens_NT.shape == (6, 1)
    torch.testing.assert_close(rollouts.logp_NT, policy.score(rollouts).logp_NT, atol=1e-5, rtol=0)


def test_sampling_needs_no_gradient_and_leaves_none(policy, problems_of):
    rollouts = policy.sample(problems_of["text"], generator=seeded(), max_new_tokens=2)
    assert not rollouts.logp_NT.requires_grad
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_without_numbers_the_most_likely_token_is_picked():
    logp_MV, prefix_R = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]).log(), torch.tensor([1, 0, 1])
    assert pick(logp_MV, prefix_R, None).tolist() == [0, 1, 0]
    assert pick(logp_MV, prefix_R, torch.tensor([0.1, 0.1, 0.95], dtype=torch.float64)).tolist() == [0, 0, 2]


@pytest.mark.parametrize("cut", [WHOLE, Cut(top_p=0.8)])
@pytest.mark.parametrize("greedy", [False, True])
def test_tokens_drawn_few_rows_at_a_time_have_the_same_bits_and_take_little_memory(monkeypatch, cut, greedy):
    rows, vocabulary = 50, 3_000
    logits_RV = 3 * torch.randn(rows, vocabulary, generator=seeded())
    banned_V = torch.arange(vocabulary) % 7 == 0
    uniform_R = None if greedy else torch.rand(rows, dtype=torch.float64, generator=seeded(1))

    def drawn():
        return next_tokens(logits_RV, uniform_R, banned_V, 0.7, cut)

    whole, most = drawn(), most_added(drawn)
    monkeypatch.setattr(decoding, "DRAWN_AT_ONCE", 8 * vocabulary)
    assert all(map(torch.equal, drawn(), whole))
    assert most_added(drawn) < 0.25 * most


def test_rows_that_have_drawn_the_same_tokens_are_computed_once(ending64, problems_of, kind, monkeypatch):
    computed = []
    extend = CachedPrefixes.extend
    monkeypatch.setattr(
        CachedPrefixes, "extend", lambda self, *given: computed.append(len(given[0])) or extend(self, *given)
    )
    rollouts = ending64.sample(
        problems_of[kind], rollouts_per_prompt=8, generator=seeded(), max_new_tokens=NEW_TOKENS, temperature=0.5
    )
    prefixes = {
        (p, tuple(answer[:length]))
        for p, answer in zip(rollouts.prompt_of_N.tolist(), answers(rollouts), strict=True)
        for length in range(1, len(answer) + (0 if answer[-1] == int(ending64.end_ids) else 1))
        if length < NEW_TOKENS
    }
    assert sum(computed) == len(prefixes) < int(rollouts.mask_NT.sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_answers_are_those_of_rows_computed_one_by_one(ending64, problems_of, kind, monkeypatch, temperature):
    def sample():
        return ending64.sample(
            problems_of[kind],
            rollouts_per_prompt=6,
            generator=seeded(1),
            max_new_tokens=NEW_TOKENS,
            temperature=temperature,
        )

    merged = sample()
    monkeypatch.setattr(
        "copd.compute.decode.distinct_prefixes",
        lambda prefix_R, token_R, vocabulary: (prefix_R, token_R, torch.arange(len(prefix_R))),
    )
    apart = sample()
    assert answers(merged) == answers(apart)
    assert torch.equal(merged.finished_N, apart.finished_N)
    torch.testing.assert_close(merged.logp_NT, apart.logp_NT, atol=1e-10, rtol=0)


def test_rows_are_one_prefix_where_prompt_and_token_agree():
    prefix_R, token_R = torch.tensor([2, 0, 2, 2, 0]), torch.tensor([5, 5, 3, 5, 5])
    parent_M, token_M, place_R = distinct_prefixes(prefix_R, token_R, 7)
    assert parent_M.tolist() == [0, 2, 2]
    assert token_M.tolist() == [5, 3, 5]
    assert place_R.tolist() == [2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("parents", "places", "moved"),
    [
        ([0, 1, 2], [0, 1, 2], []),
        ([0, 0, 1], [0, 2, 1], [1]),
        ([2, 2, 5], [2, 0, 1], [1, 2]),
        ([3], [0], [0]),
        ([0, 4, 4, 4], [0, 1, 2, 3], [1, 2, 3]),
    ],
)
def test_prefixes_stay_at_their_parents_place_and_fill_the_gaps(parents, places, moved):
    place_M, moved_M = settle(torch.tensor(parents))
    assert place_M.tolist() == places
    assert moved_M.nonzero()[:, 0].tolist() == moved
    assert sorted(places) == list(range(len(parents)))
