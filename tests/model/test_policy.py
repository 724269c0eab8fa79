"""Log-probs of a policy: shared prefixes against the plain forward, and what must have no influence on them."""

import threading
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from copd.compute import devices
from copd.compute import forward as forward_module
from copd.compute import logprobs as statistics
from copd.compute.batching import Distinct, take_rows
from copd.compute.encode import Encoder
from copd.maths.divergences import Target, reverse_kl
from copd.model.policy import Policy

SINGLE = ((1, 1), (1,), (1, 1, 1))
UNEVEN = ((5, 3, 7), (1,), (4, 6))
CASES = [("policy", UNEVEN, 2e-5, 5e-6), ("policy64", UNEVEN, 1e-10, 1e-10), ("policy64", SINGLE, 1e-10, 1e-10)]
PATHS = ("packed", "plain")


def on(path, policy):
    """The same weights: packed, or all computed again for each row."""
    twin = policy.clone()
    twin.packing = path == "packed"
    return twin


def split_up(policy, micro_batch_tokens):
    twin = policy.clone()
    twin.micro_batch_tokens = micro_batch_tokens
    return twin


def without_merging(monkeypatch):
    """From here on every row is computed, equal ones too."""
    every = lambda rollouts, rows_M, key_N=None: Distinct(rows_M, torch.ones_like(rows_M), torch.arange(len(rows_M)))  # noqa: E731
    monkeypatch.setattr(statistics, "distinct_rows", every)


@pytest.fixture
def mixed(written, policy, problems_of):
    """Rollouts for prompts of all three kinds."""
    problems = [problems_of["image"][2], problems_of["text"][0], problems_of["video"][0], problems_of["text"][1]]
    return written(policy, problems, [(5, 3), (1, 6, 2), (4, 4), (7,)])


@pytest.mark.parametrize(
    ("name", "lengths", "logp_tolerance", "gradient_tolerance"), CASES, ids=["float32", "float64", "single tokens"]
)
def test_the_shared_prefix_gives_log_probs_and_gradients_of_the_plain_forward(
    request, written, problems_of, gradients, assert_same, kind, lengths, name, logp_tolerance, gradient_tolerance
):
    policy, plain_policy = (on(path, request.getfixturevalue(name)) for path in PATHS)
    rollouts = written(policy, problems_of[kind], lengths)
    shared, plain = policy.logp(rollouts), plain_policy.logp(rollouts)
    torch.testing.assert_close(shared, plain, atol=logp_tolerance, rtol=0)
    tokens = rollouts.mask_NT.sum()
    shared_gradient = gradients(policy, shared.sum() / tokens)
    assert_same(shared_gradient, gradients(plain_policy, plain.sum() / tokens), atol=gradient_tolerance)
    vision = [g.abs().max() for name, g in shared_gradient.items() if "visual" in name]
    assert (max(vision) > 1e-4) == (kind != "text"), "the gradient reaches the vision tower through the shared prefix"


@pytest.mark.parametrize(("path", "temperature"), [("packed", 2.0), ("plain", 0.5)])
def test_log_probs_are_those_of_each_text_run_alone_through_transformers(
    policy64, written, problems_of, processed, kind, path, temperature
):
    rollouts = written(policy64, problems_of[kind], temperature=temperature)
    found = on(path, policy64).score(rollouts).logp_NT
    for n, p in enumerate(rollouts.prompt_of_N.tolist()):
        response = rollouts.tokens_NT[n, rollouts.mask_NT[n]]
        inputs = processed(rollouts.problems[p])
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], response[None]], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            inputs[name] = torch.cat([inputs[name], torch.full((1, len(response)), value)], dim=1)
        with torch.no_grad():
            logits = policy64.model(**inputs).logits[0, length - 1 : -1] / temperature
        logits[:, policy64.banned_V] = -torch.inf
        expected = logits.log_softmax(-1)[torch.arange(len(response)), response]
        torch.testing.assert_close(found[n, : len(response)], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_what_stands_in_the_padding_has_no_influence(policy64, written, problems_of, gradients, assert_same, path):
    rollouts = written(policy64, problems_of["image"])
    other = replace(
        rollouts,
        tokens_NT=torch.where(rollouts.mask_NT, rollouts.tokens_NT, 7),
        logp_NT=torch.where(rollouts.mask_NT, rollouts.logp_NT, torch.nan),
    )
    assert not torch.equal(other.tokens_NT, rollouts.tokens_NT)
    policy = on(path, policy64)
    logp_NT, other_NT = policy.logp(rollouts), policy.logp(other)
    assert torch.equal(logp_NT, other_NT)
    assert not logp_NT[~rollouts.mask_NT].any()
    assert_same(gradients(policy, logp_NT.sum()), gradients(policy, other_NT.sum()), atol=1e-10)


def test_the_order_of_the_rows_has_no_influence(policy64, mixed, gradients, assert_same):
    order = torch.tensor([5, 0, 7, 3, 1, 6, 2, 4])
    shuffled = take_rows(mixed, order)
    logp_NT, shuffled_NT = policy64.logp(mixed), policy64.logp(shuffled)
    torch.testing.assert_close(shuffled_NT, logp_NT[order], atol=1e-10, rtol=0)
    assert_same(gradients(policy64, logp_NT.sum()), gradients(policy64, shuffled_NT.sum()), atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_the_rows_of_a_group_need_not_stand_together(policy64, written, problems_of, kind, path):
    policy = on(path, policy64)
    rollouts = written(policy, problems_of[kind])
    order = torch.tensor([5, 0, 3, 4, 2, 1])
    shuffled = take_rows(rollouts, order)
    expected_M = policy.logp(rollouts)[order][shuffled.mask_NT]
    torch.testing.assert_close(policy.token_stats(shuffled).logp_M, expected_M, atol=1e-10, rtol=0)


@pytest.mark.parametrize("budget", [1, 35, 50])
def test_the_token_budget_has_no_influence(policy64, mixed, gradients, assert_same, budget):
    small = split_up(policy64, budget)
    everything = torch.arange(len(mixed.tokens_NT))
    assert len(small.micro_batches(mixed, everything)) > len(policy64.micro_batches(mixed, everything)) == 3
    whole_NT, split_NT = policy64.logp(mixed), small.logp(mixed)
    torch.testing.assert_close(split_NT, whole_NT, atol=1e-10, rtol=0)
    assert_same(gradients(small, split_NT.sum()), gradients(policy64, whole_NT.sum()), atol=1e-8)
    ids_NTK = torch.arange(3).expand(*mixed.tokens_NT.shape, -1)
    whole, split = (p.score(mixed, k=4, ids_NTK=ids_NTK) for p in (policy64, small))
    assert torch.equal(split.topk_ids_NTK, whole.topk_ids_NTK)
    torch.testing.assert_close(split.topk_logp_NTK, whole.topk_logp_NTK, atol=1e-10, rtol=0)
    torch.testing.assert_close(split.at_ids_NTK, whole.at_ids_NTK, atol=1e-10, rtol=0)


def test_the_token_budget_counts_what_the_path_holds(policy, written, problems_of):
    """Packed: a prompt once. On the plain path: a prompt with each of its rows."""
    rollouts = written(policy, problems_of["text"][:1], [(4, 6)])
    everything = torch.arange(2)
    prompt = policy.encoder.lengths(rollouts.problems)[0]
    for path, tokens in (("packed", prompt + 4 + 6), ("plain", 2 * (prompt + 6))):
        counts = [len(split_up(on(path, policy), t).micro_batches(rollouts, everything)) for t in (tokens, tokens - 1)]
        assert counts == [1, 2]


def test_the_pictures_of_the_next_micro_batch_are_made_while_one_is_computed(policy, written, problems_of, monkeypatch):
    small = split_up(policy, 1)
    made, plainly = [], small.encoder.family.encode

    def noted(problems):
        made.append((*problems, threading.current_thread() is threading.main_thread()))
        return plainly(problems)

    monkeypatch.setattr(small.encoder.family, "encode", noted)
    problems = problems_of["image"]
    expected = [(problems[0], True), (problems[1], False), (problems[2], False)]
    rollouts = written(small, problems)
    uses = {"sample": lambda: small.sample(problems, max_new_tokens=2)}
    uses |= {"score": lambda: small.score(rollouts), "logp": lambda: small.logp(rollouts)}
    for name, use in uses.items():
        made.clear()
        small.encoder = Encoder(small.encoder.family)
        use()
        assert made == expected, name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("elements", [1, 3 * 128, 25 * 128])
def test_log_probs_in_chunks_equal_those_at_once(
    policy64, written, problems_of, gradients, assert_same, monkeypatch, elements, path
):
    policy = on(path, policy64)
    rollouts = written(policy, problems_of["image"], temperature=0.7)
    ids_NTK = torch.randint(90, (*rollouts.tokens_NT.shape, 5), generator=torch.Generator().manual_seed(0))

    compared_MK = ids_NTK[rollouts.mask_NT][:, :1]
    target = Target(reverse_kl, torch.full(compared_MK.shape, -0.5, dtype=torch.float64), compared_MK)

    def everything():
        stats = policy.token_stats(rollouts, k=3, ids_NTK=ids_NTK, whole=True, target=target)
        return stats._asdict(), gradients(policy, stats.logp_M.mean() + stats.divergence_M.mean())

    whole, whole_gradient = everything()
    assert all(value is not None for value in whole.values())
    monkeypatch.setitem(devices.WAYS, "cpu", devices.OTHER._replace(logits=elements))
    chunked, chunked_gradient = everything()
    assert_same(chunked, whole, atol=1e-10)
    assert_same(chunked_gradient, whole_gradient, atol=1e-10)


def test_chunks_bound_the_number_of_logits_that_exist_at_once(policy, written, problems_of, monkeypatch):
    policy, sizes = policy.clone(), []
    monkeypatch.setitem(devices.WAYS, "cpu", devices.OTHER._replace(logits=5 * 128))

    class Measuring(type(policy.model.lm_head)):
        def forward(self, hidden):
            sizes.append(len(hidden))
            return super().forward(hidden)

    policy.model.lm_head.__class__ = Measuring
    policy.score(written(policy, problems_of["text"]))
    assert max(sizes) == 5
    assert sum(sizes) == 26


def test_entropy_is_that_of_the_masked_distribution_and_has_no_gradient(policy64, written, problems_of):
    rollouts = written(policy64, problems_of["text"])
    allowed = (~policy64.banned_V).nonzero()[:, 0]
    logp_MK = policy64.score(rollouts, ids_NTK=allowed.expand(*rollouts.tokens_NT.shape, -1)).at_ids_NTK
    stats = policy64.token_stats(rollouts)
    expected_M = -(logp_MK.exp() * logp_MK).sum(-1)[rollouts.mask_NT]
    torch.testing.assert_close(stats.entropy_M, expected_M, atol=1e-10, rtol=0)
    assert stats.logp_M.requires_grad
    assert not stats.entropy_M.requires_grad


def test_the_whole_distributions_stand_row_by_row_whatever_the_order_of_the_rows(policy64, mixed):
    shuffled = take_rows(mixed, torch.tensor([5, 0, 3, 1, 4, 2, 0]))
    everything = torch.arange(len(policy64.banned_V)).expand(*shuffled.tokens_NT.shape, -1)
    expected_MV = policy64.score(shuffled, ids_NTK=everything).at_ids_NTK[shuffled.mask_NT]
    torch.testing.assert_close(policy64.score(shuffled, whole=True).whole_MV, expected_MV, atol=1e-10, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_a_score_holds_the_log_probs_the_likeliest_tokens_and_those_asked_about(policy64, mixed, path):
    everything = torch.arange(len(policy64.banned_V)).expand(*mixed.tokens_NT.shape, -1)
    score = on(path, policy64).score(mixed, k=5, ids_NTK=everything, version=7)
    assert score.version == 7
    assert not score.logp_NT.requires_grad
    mask_NT = mixed.mask_NT
    at_tokens_NT = score.at_ids_NTK.gather(-1, mixed.tokens_NT[..., None])[..., 0]
    torch.testing.assert_close(score.logp_NT[mask_NT], at_tokens_NT[mask_NT], atol=1e-10, rtol=0)
    best = score.at_ids_NTK.topk(5)
    assert torch.equal(score.topk_ids_NTK[mask_NT], best.indices[mask_NT])
    torch.testing.assert_close(score.topk_logp_NTK[mask_NT], best.values[mask_NT], atol=1e-10, rtol=0)
    for values in (score.logp_NT, score.topk_logp_NTK, score.at_ids_NTK):
        assert not values[~mask_NT].any()


def test_a_score_holds_nothing_that_was_not_asked_for(policy, mixed):
    score = policy.score(mixed)
    assert score.topk_ids_NTK is score.topk_logp_NTK is score.at_ids_NTK is None


def test_more_likeliest_tokens_than_are_allowed_is_an_error(policy, mixed):
    assert policy.score(mixed, k=policy.allowed_tokens).topk_ids_NTK.shape[-1] == policy.allowed_tokens
    with pytest.raises(ValueError, match=f"k={policy.allowed_tokens + 1}"):
        policy.score(mixed, k=policy.allowed_tokens + 1)


def test_the_score_of_equal_responses_is_that_of_each_computed_for_itself(policy64, mixed, assert_same, monkeypatch):
    rollouts = take_rows(mixed, torch.tensor([5, 0, 7, 5, 3, 0, 1, 5, 6]))
    found = vars(policy64.score(rollouts, k=3))
    assert torch.equal(found["logp_NT"][1], found["logp_NT"][5])
    without_merging(monkeypatch)
    assert_same(found, vars(policy64.score(rollouts, k=3)), atol=1e-10)


def test_equal_responses_are_scored_once_but_each_at_the_tokens_it_is_asked_about(policy64, written, problems_of):
    policy, rows = on("plain", policy64), []
    policy.model.get_output_embeddings().register_forward_pre_hook(lambda module, hidden: rows.append(len(hidden[0])))
    rollouts = take_rows(written(policy, problems_of["text"][:1], [(6, 4)]), torch.tensor([0, 1, 0, 0]))
    policy.score(rollouts)
    ids_NTK = torch.arange(90, 94)[:, None, None].expand(4, 6, 1)
    asked = policy.score(rollouts, ids_NTK=ids_NTK).at_ids_NTK
    assert rows == [2, 4]
    policy.score(rollouts, ids_NTK=ids_NTK[:1].expand(4, -1, -1))
    assert rows[2:] == [2], "all are asked about the same"
    everything = policy.score(rollouts, k=policy.allowed_tokens)
    assert not torch.equal(asked[0], asked[2])
    for n in (0, 2, 3):
        at_NTK = everything.topk_logp_NTK[n][everything.topk_ids_NTK[n] == 90 + n]
        torch.testing.assert_close(asked[n, :, 0], at_NTK, atol=1e-10, rtol=0)


def test_the_prompts_of_a_group_run_through_the_model_once(policy, written, problems_of):
    policy, tokens = on("packed", policy), []
    policy.model.register_forward_pre_hook(
        lambda module, args, inputs: tokens.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    rollouts = written(policy, problems_of["text"][:1], [(6, 6, 6, 6)])
    policy.score(rollouts)
    assert tokens == [policy.encoder.lengths(rollouts.problems)[0] + 4 * 5]


@pytest.mark.parametrize("path", PATHS)
def test_hooks_on_the_root_and_on_the_head_act(policy, mixed, path):
    policy, called = on(path, policy), []
    policy.model.register_forward_hook(lambda *_: called.append("root"))
    policy.model.get_output_embeddings().register_forward_hook(lambda *_: called.append("head"))
    policy.score(mixed)
    assert called.count("root") == called.count("head") == 3, "a micro-batch for each kind of prompt"


def test_the_models_own_head_is_back_after_an_error(policy, written, problems_of, processed):
    rollouts = written(policy, problems_of["text"])
    with pytest.raises(IndexError):
        policy.score(replace(rollouts, tokens_NT=rollouts.tokens_NT + 1000))
    assert "forward" not in vars(policy.model.get_output_embeddings())
    logits = policy.model(**processed(problems_of["text"][0])).logits
    assert logits.shape[-1] == len(policy.banned_V)


def test_a_clone_has_the_same_weights_and_a_life_of_its_own(policy, mixed):
    twin = policy.clone()
    assert torch.equal(twin.score(mixed).logp_NT, policy.score(mixed).logp_NT)
    before = policy.score(mixed).logp_NT
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(policy.score(mixed).logp_NT, before)
    assert not torch.equal(twin.score(mixed).logp_NT, before)
    assert twin.model.get_output_embeddings().weight is twin.model.get_input_embeddings().weight


def test_a_clone_keeps_the_budget_the_path_and_the_vocabulary(policy):
    original = policy.clone()
    assert original.cache_tokens == original.micro_batch_tokens
    original.micro_batch_tokens, original.shared_prefix = 77, False
    twin = original.clone()
    assert (twin.micro_batch_tokens, twin.cache_tokens, twin.shared_prefix) == (77, 77, False)
    assert torch.equal(twin.banned_V, policy.banned_V)
    assert torch.equal(twin.end_ids, policy.end_ids)


def test_loaded_weights_give_the_log_probs_of_the_model_they_come_from(policy, ending, mixed):
    twin = policy.clone()
    twin.load_weights(dict(ending.model.named_parameters()))
    assert torch.equal(twin.score(mixed).logp_NT, ending.score(mixed).logp_NT)
    assert "lm_head.weight" not in dict(ending.model.named_parameters()), "tied weights travel once"


def test_a_weight_that_is_missing_is_named(policy):
    weights = dict(policy.model.named_parameters())
    name, _ = weights.popitem()
    with pytest.raises(KeyError, match=name.replace(".", r"\.")):
        policy.clone().load_weights(weights)


def test_texts_are_the_responses_without_end_tokens_and_padding(policy, written, problems_of):
    rollouts = written(policy, problems_of["text"])
    decode = policy.processor.tokenizer.decode
    for text, tokens, mask, finished in zip(
        policy.texts(rollouts), rollouts.tokens_NT, rollouts.mask_NT, rollouts.finished_N.tolist(), strict=True
    ):
        answer = tokens[mask].tolist()
        assert text == decode(answer[:-1] if finished else answer)
        assert "<|" not in text


def test_autocast_computes_coarsely_and_gives_float32_log_probs_and_gradients(policy, mixed, gradients):
    half = Policy(policy.clone().model, policy.processor, autocast=torch.bfloat16)
    logp_NT = half.logp(mixed)
    assert logp_NT.dtype == torch.float32
    assert 1e-5 < float((logp_NT - policy.logp(mixed)).detach().abs().max()) < 0.2
    gradient = gradients(half, logp_NT.mean())
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value).all()) for value in gradient.values())
    assert half.clone().autocast is torch.bfloat16
    sampled = half.sample(mixed.problems, generator=torch.Generator().manual_seed(0), max_new_tokens=6)
    torch.testing.assert_close(half.score(sampled).logp_NT, sampled.logp_NT, atol=0.1, rtol=0)


@pytest.mark.parametrize("start", ["start_shared", "start_plain"])
def test_logits_are_not_rounded_to_the_type_of_autocast(policy, problems_of, start):
    half = Policy(policy.clone().model, policy.processor, autocast=torch.bfloat16)
    prompts = half.encoder.encode(problems_of["text"], half.device)
    with torch.no_grad(), half.computing():
        _, logits_PV = getattr(half.forward, start)(prompts, 3, 1)
    assert logits_PV.dtype == torch.float32
    assert not torch.equal(logits_PV, logits_PV.bfloat16().float())


def test_a_cache_in_the_type_of_autocast_changes_nothing(policy, problems_of, kind, monkeypatch):
    half = Policy(policy.clone().model, policy.processor, autocast=torch.bfloat16)

    def sample():
        generator = torch.Generator().manual_seed(0)
        return half.sample(problems_of[kind], rollouts_per_prompt=3, generator=generator, max_new_tokens=8)

    narrow, caches = sample(), []
    scored = half.score(narrow).logp_NT
    monkeypatch.setattr(forward_module, "NarrowCache", lambda: caches.append(DynamicCache()) or caches[-1])
    wide = sample()
    assert caches[0].layers[0].keys.dtype == torch.float32, "otherwise nothing is compared"
    assert torch.equal(narrow.tokens_NT, wide.tokens_NT)
    assert torch.equal(narrow.logp_NT, wide.logp_NT)
    assert torch.equal(scored, half.score(narrow).logp_NT)
