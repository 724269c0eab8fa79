"""The one vocabulary mask, in the ids, in sampling and in every log-prob."""

import copy

import pytest
import torch

from copd.model.policy import Policy
from copd.model.tiny import SPECIAL_TOKENS, tiny_model
from copd.model.vocabulary import banned_tokens, end_tokens, same_tokens


def test_special_tokens_and_padded_rows_of_the_embedding_are_banned_but_not_the_end_token(policy):
    tokenizer = policy.processor.tokenizer
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) - {tokenizer.eos_token_id}
    beyond = set(range(len(tokenizer), policy.model.get_output_embeddings().weight.shape[0]))
    assert beyond, "this test needs an embedding larger than the tokenizer"
    assert set(policy.banned_V.nonzero()[:, 0].tolist()) == special | beyond
    assert policy.allowed_tokens == len(policy.banned_V) - len(special | beyond)


def test_the_end_tokens_are_those_of_the_generation_config_one_or_several(processor):
    model = tiny_model(processor)
    assert end_tokens(model, processor).tolist() == [processor.tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [101, 99]
    assert end_tokens(model, processor).tolist() == [101, 99]
    assert not banned_tokens(model, processor, torch.tensor([101, 99]))[[101, 99]].any()


def test_policies_have_the_same_tokens_where_text_and_mask_are_the_same(policy, processor):
    assert same_tokens(policy, policy.clone())
    stricter = tiny_model(processor)
    stricter.generation_config.suppress_tokens = [5]
    assert not same_tokens(policy, Policy(stricter, processor))
    renamed = copy.deepcopy(processor)
    renamed.tokenizer.add_tokens(["word"])
    assert not same_tokens(policy, Policy(tiny_model(processor), renamed))


def test_without_a_generation_config_the_tokenizer_says_what_ends_a_response(processor):
    model = tiny_model(processor)
    model.generation_config.eos_token_id = None
    assert end_tokens(model, processor).tolist() == [processor.tokenizer.eos_token_id]


def test_what_the_generation_config_suppresses_is_banned_unless_it_ends_a_response(processor):
    model = tiny_model(processor)
    model.generation_config.suppress_tokens = [3, processor.tokenizer.eos_token_id]
    policy = Policy(model, processor)
    assert bool(policy.banned_V[3])
    assert not policy.banned_V[policy.end_ids].any()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_banned_tokens_have_no_probability_and_the_others_have_all_of_it(
    policy64, written, problems_of, kind, temperature
):
    rollouts = written(policy64, problems_of[kind], temperature=temperature)
    everything = torch.arange(len(policy64.banned_V)).expand(*rollouts.tokens_NT.shape, -1)
    logp_MV = policy64.score(rollouts, ids_NTK=everything).at_ids_NTK[rollouts.mask_NT]
    assert bool((logp_MV[:, policy64.banned_V] == -torch.inf).all())
    assert bool(torch.isfinite(logp_MV[:, ~policy64.banned_V]).all())
    torch.testing.assert_close(logp_MV.exp().sum(-1), torch.ones(len(logp_MV), dtype=torch.float64))


@pytest.mark.parametrize("greedy", [True, False])
def test_a_banned_token_is_never_sampled_however_likely_the_model_finds_it(policy, problems_of, kind, greedy):
    policy = policy.clone()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.banned_V] *= 30
    generator = None if greedy else torch.Generator().manual_seed(0)
    rollouts = policy.sample(problems_of[kind], rollouts_per_prompt=4, generator=generator, max_new_tokens=8)
    assert not policy.banned_V[rollouts.tokens_NT[rollouts.mask_NT]].any()
    assert bool(torch.isfinite(rollouts.logp_NT).all())


def test_the_mask_is_needed_a_model_left_alone_would_emit_a_banned_token(policy, problems_of, processed):
    policy = policy.clone()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.banned_V] *= 30
        logits_V = policy.model(**processed(problems_of["text"][0])).logits[0, -1]
    assert bool(policy.banned_V[logits_V.argmax()])
