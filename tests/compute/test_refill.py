"""The loop that cards take, on a CPU: the answers of the other loop, a bounded cache, and few waits of the host."""

import threading
from unittest.mock import patch

import pytest
import torch
from tiny_kinds import tiny_of_kind
from transformers import GPT2Config, GPT2LMHeadModel
from waits import Waits

from copd.compute import refill
from copd.compute.forward import Forward
from copd.compute.refill import Request, RowCache, decode_refilled, refills
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.types import Rollouts

NEW_TOKENS = 12
PROMPT_OF_N = (0, 0, 0, 1, 1, 1, 2, 2, 2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def answers(rollouts):
    """The response of each row as a list of ids."""
    return [tokens[mask].tolist() for tokens, mask in zip(rollouts.tokens_NT, rollouts.mask_NT, strict=True)]


def sampled(policy, problems, budget=10_000, block=4, greedy=False, limit=NEW_TOKENS, prompt_of_N=PROMPT_OF_N):
    """Rows by this loop; nine of three prompts unless told otherwise."""
    small = policy.clone(cache_tokens=budget)
    size = len(prompt_of_N), limit
    uniform_NT = None if greedy else torch.rand(size, generator=seeded(3), dtype=torch.float64)
    with small.computing():
        return decode_refilled(small, Request(problems, prompt_of_N, uniform_NT, limit, 1.0), block)


def assert_same(found, expected, atol):
    assert answers(found) == answers(expected)
    assert torch.equal(found.finished_N, expected.finished_N)
    assert torch.equal(found.mask_NT, expected.mask_NT)
    assert not found.tokens_NT[~found.mask_NT].any()
    torch.testing.assert_close(found.logp_NT, expected.logp_NT, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def shared(ending64, problems_of):
    """The answers by the loop that shares prefixes."""
    found = {}

    def answered(kind, greedy):
        if (kind, greedy) not in found:
            generator = None if greedy else seeded(3)
            found[kind, greedy] = ending64.sample(
                problems_of[kind], rollouts_per_prompt=3, generator=generator, max_new_tokens=NEW_TOKENS
            )
        return found[kind, greedy]

    return answered


SPLITS = [(150, 5, False), (150, 5, True), (10_000, 1, False)]


@pytest.mark.parametrize(
    ("kind", "budget", "block", "greedy"),
    [(kind, *split) for kind in ("text", "image", "video") for split in SPLITS] + [("text", 1, 32, False)],
)
def test_the_answers_are_those_of_the_loop_that_shares_prefixes_for_any_budget_and_block(
    ending64, problems_of, shared, kind, budget, block, greedy
):
    expected = shared(kind, greedy)
    assert greedy or len(set(expected.mask_NT.sum(-1).tolist())) > 1, "rows have to finish at different places"
    assert_same(sampled(ending64, problems_of[kind], budget, block, greedy), expected, atol=1e-6)


def test_a_policy_on_a_card_takes_it(ending64, problems_of, shared):
    with (
        patch("copd.model.builtin_sampler.refills", lambda device: True),
        patch("copd.model.builtin_sampler.decode", lambda *given, **options: pytest.fail("the other loop")),
    ):
        found = ending64.sample(
            problems_of["text"], rollouts_per_prompt=3, generator=seeded(3), max_new_tokens=NEW_TOKENS
        )
    assert_same(found, shared("text", greedy=False), atol=1e-6)
    assert found.prompt_of_N.tolist() == list(PROMPT_OF_N)
    assert [refills(torch.device(name)) for name in ("cuda", "cuda:1", "cpu", "mps")] == [True, True, False, False]


def test_in_float32_and_for_all_kinds_of_prompts_at_once_the_log_probs_are_the_trainers(ending, problems_of):
    mixed = [problems_of[kind][i] for kind, i in [("image", 2), ("text", 1), ("video", 0), ("text", 0)]]
    prompt_of_N = [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    with patch.object(Forward, "prefill", autospec=True, side_effect=Forward.prefill) as prefill:
        found = sampled(ending, mixed, 170, 3, prompt_of_N=prompt_of_N)
    alone = [int(call.args[1].mask_PS.sum()) for call in prefill.call_args_list if len(call.args[1].ids_PS) == 1]
    assert set(alone) - set(ending.encoder.lengths(mixed)), "a row has to wait and to go on"
    rollouts = Rollouts(
        tuple(mixed), found.tokens_NT, found.mask_NT, found.finished_N, found.logp_NT, torch.tensor(prompt_of_N), 1.0
    )
    torch.testing.assert_close(ending.score(rollouts).logp_NT, rollouts.logp_NT, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("llama", ("text",)), ("gemma3", ("text", "image")), ("qwen2_5_vl", ("image", "video"))],
)
def test_models_of_other_kinds_give_the_answers_of_the_other_loop(problems_of, name, kinds):
    policy = Policy(*tiny_of_kind(name, seed=1))
    problems = [problem for kind in kinds for problem in problems_of[kind]]
    shared = policy.sample(problems, rollouts_per_prompt=2, generator=seeded(3), max_new_tokens=16)
    prompt_of_N = shared.prompt_of_N.tolist()
    assert_same(sampled(policy, problems, 250, 5, limit=16, prompt_of_N=prompt_of_N), shared, atol=5e-5)


def test_a_model_without_a_cache_of_keys_is_told_at_the_start_and_sampled_on_the_plain_path(problems_of):
    policy = Policy(*tiny_of_kind("mamba", seed=1))
    with patch("copd.model.builtin_sampler.refills", lambda device: True):
        assert "does not work with this model" in settle_path(policy, problems_of["text"], allow_plain_path=True)
        policy.sample(problems_of["text"], max_new_tokens=2)


def test_under_autocast_the_cache_is_narrow_and_log_probs_are_float32(policy, problems_of, kind):
    half = Policy(policy.clone().model, policy.processor, autocast=torch.bfloat16)
    caches = []
    plainly = RowCache.layers
    with (
        patch("copd.model.builtin_sampler.refills", lambda device: True),
        patch.object(RowCache, "layers", lambda self: caches.append(self) or plainly(self)),
    ):
        rollouts = half.sample(problems_of[kind], rollouts_per_prompt=3, generator=seeded(), max_new_tokens=8)
    assert {buffer.dtype for buffer in caches[0].buffers} == {torch.bfloat16}
    assert rollouts.logp_NT.dtype == torch.float32
    torch.testing.assert_close(half.score(rollouts).logp_NT, rollouts.logp_NT, atol=0.1, rtol=0)


def test_a_limit_of_one_token_needs_no_forward_after_the_prefill(policy, problems_of, kind, monkeypatch):
    monkeypatch.setattr(refill.ModelStep, "__call__", None)
    rollouts = sampled(policy, problems_of[kind], limit=1)
    assert rollouts.tokens_NT.shape == (9, 1)


def test_a_prompt_is_prefilled_once_for_the_rows_that_join_together(policy, problems_of):
    with patch.object(Forward, "prefill", autospec=True, side_effect=Forward.prefill) as prefill:
        sampled(policy, problems_of["text"])
    (call,) = prefill.call_args_list
    assert len(call.args[1].ids_PS) == 3


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("prompts", [2, 1, 0])
def test_prompts_that_join_are_prefilled_by_the_micro_batch_with_the_same_answers(
    ending64, problems_of, shared, kind, prompts
):
    """As many prompts at a time as there are tokens for, padded; one that has more tokens is read alone."""
    small = ending64.clone(micro_batch_tokens=max(1, prompts * max(ending64.encoder.lengths(problems_of[kind]))))
    with patch.object(Forward, "prefill", autospec=True, side_effect=Forward.prefill) as prefill:
        found = sampled(small, problems_of[kind])
    assert [len(call.args[1].ids_PS) for call in prefill.call_args_list] == {2: [2, 1], 1: [1, 1, 1], 0: [1, 1, 1]}[
        prompts
    ]
    assert_same(found, shared(kind, greedy=False), atol=1e-6)


def test_while_prompts_are_prefilled_a_thread_makes_the_pixels_of_the_next(policy, problems_of, monkeypatch):
    own = Policy(policy.clone().model, policy.processor, micro_batch_tokens=1)
    made, plainly = [], own.encoder.family.encode

    def encode(problems):
        made.append(threading.current_thread() is threading.main_thread())
        return plainly(problems)

    monkeypatch.setattr(own.encoder.family, "encode", encode)
    sampled(own, problems_of["image"], limit=1)
    assert made == [True, False, False]


def test_the_cache_keeps_its_size_within_the_budget_while_rows_come_and_go(ending, problems_of):
    held, rows = [], []
    plainly = RowCache.layers

    def layers(self):
        arranged = plainly(self)
        rows.append(arranged[0].used)
        held.append(sorted((buffer.data_ptr(), buffer.nbytes) for buffer in self.buffers if buffer.nbytes))
        return arranged

    budget = 250
    with patch.object(RowCache, "layers", layers):
        sampled(ending, problems_of["text"], budget, limit=40)
    assert len(set(rows)) > 2, "rows have to come and go"
    parts = 2 * ending.model.config.text_config.num_hidden_layers
    text = ending.model.config.text_config
    one = budget * text.num_key_value_heads * text.head_dim * 4
    assert [size for _, size in held[-1]] == [one] * (parts + 1)
    assert held[1:] == [held[-1]] * (len(held) - 1)


def test_what_is_left_of_a_short_row_is_zero_whatever_the_memory_held():
    cache = RowCache(cache_tokens=20)
    long, short = torch.ones(1, 1, 3, 2), torch.full((2, 1, 1, 2), 2.0)
    cache.begin(rows=2, width=3, columns=5)
    cache.put([long, long], torch.tensor([0]))
    cache.put([short, short], torch.tensor([1]))
    for buffer in cache.buffers:
        buffer[:] = torch.nan
    cache.begin(rows=3, width=3, columns=5)
    cache.put([short, long], torch.tensor([0]))
    cache.put([long, short[:, :, :0]], torch.tensor([0]))
    cache.put([short, short], torch.tensor([1]))
    (layer,) = cache.layers()
    keys, values = (part[:, 0, :, 0].tolist() for part in layer.filled())
    assert keys == [[0, 0, 2], [1, 1, 1], [0, 0, 2]]
    assert values == [[1, 1, 1], [0, 0, 0], [0, 0, 2]]


def test_between_two_looks_of_the_host_nothing_waits_for_the_device(ending, problems_of):
    outside = []
    prefill = Forward.prefill

    def unobserved(self, prompts):
        before = len(waits.counted)
        result = prefill(self, prompts)
        outside.append(len(waits.counted) - before)
        return result

    prompts = problems_of["text"]
    ending.encoder.lengths(prompts)
    uniform_NT = torch.rand(9, 22, generator=seeded(3), dtype=torch.float64)
    asked = Request(prompts, PROMPT_OF_N, uniform_NT, 22, 1.0)
    with patch.object(Forward, "prefill", unobserved), Waits() as waits:
        found = decode_refilled(ending, asked, 5)
    assert found.tokens_NT.shape[1] == 22
    assert len(waits.counted) - sum(outside) == 5 + 1, waits.counted  # one in 5 tokens, and one for the end tokens' ids


def test_the_other_loop_waits_several_times_a_token(ending, problems_of):
    with Waits() as waits:
        rollouts = ending.sample(problems_of["text"], rollouts_per_prompt=3, generator=seeded(3), max_new_tokens=8)
    assert len(waits.counted) > 3 * rollouts.tokens_NT.shape[1]


def test_rows_past_their_limit_ask_for_no_position_that_the_model_lacks(problems_of):
    _, tokenizer = tiny_of_kind("qwen3")
    (length,) = Policy(*tiny_of_kind("qwen3")).encoder.lengths(problems_of["text"][:1])
    end = tokenizer.eos_token_id
    shape = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": end, "eos_token_id": end}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy(GPT2LMHeadModel(GPT2Config(**shape, n_positions=length + NEW_TOKENS)), tokenizer)
    ends = (~policy.banned_V).nonzero()[::8, 0]
    uniform_NT = torch.rand(16, NEW_TOKENS, generator=seeded(), dtype=torch.float64)
    policy.end_ids, policy.micro_batch_tokens = ends, 4 * (length + NEW_TOKENS)
    found = decode_refilled(policy, Request(problems_of["text"][:1], [0] * 16, uniform_NT, NEW_TOKENS, 1.0), 5)
    assert 0 < int(found.finished_N.sum()) < 16, "some rows have to reach the limit while others have begun later"
    assert torch.equal(found.finished_N, torch.isin(found.tokens_NT, ends).logical_and(found.mask_NT).any(-1))
