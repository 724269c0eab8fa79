"""The one vocabulary mask, in the ids, in sampling and in every log-prob."""

import copy
import json

import pytest
import torch
from tiny_kinds import tiny_of_kind
from tokenizers import AddedToken, Tokenizer, normalizers

from copd.errors import ModelFolderError
from copd.model.policy import Policy
from copd.model.tiny import SPECIAL_TOKENS, tiny_model, tiny_processor, tiny_tokenizer
from copd.model.vocabulary import banned_tokens, check_same_vocabulary, control_tokens, end_tokens


def test_control_tokens_are_all_that_the_tokenizer_calls_special_with_or_without_a_role(policy):
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=True), AddedToken("<think>", special=False)])
    assert "<end_of_turn>" not in tokenizer.all_special_tokens
    assert control_tokens(tokenizer) == sorted({*tokenizer.all_special_tokens, "<end_of_turn>"})


def test_special_tokens_and_padded_rows_of_the_embedding_are_banned_but_not_the_end_token(policy):
    tokenizer = policy.processor.tokenizer
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) - {tokenizer.eos_token_id}
    beyond = set(range(len(tokenizer), policy.model.get_output_embeddings().weight.shape[0]))
    assert beyond, "this test needs an embedding larger than the tokenizer"
    assert set(policy.banned_V.nonzero()[:, 0].tolist()) == special | beyond
    assert policy.allowed_tokens == len(policy.banned_V) - len(special | beyond)


def without_end(processor):
    """A copy of the processor whose tokenizer names no end token, and whose template writes none."""
    bare = copy.deepcopy(processor)
    bare.tokenizer.eos_token = None
    bare.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    return bare


def test_the_end_tokens_are_all_that_the_generation_config_names_one_or_several(processor):
    model = tiny_model(processor)
    assert end_tokens(model, processor).tolist() == [processor.tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [101, 99]
    assert end_tokens(model, processor).tolist() == [101, 99]
    assert not banned_tokens(model, processor.tokenizer, torch.tensor([101, 99]))[[101, 99]].any()


def test_the_end_tokens_of_configuration_tokenizer_and_template_are_allowed_beside_others(processor):
    end, other = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    model, bare = tiny_model(processor), without_end(processor)
    model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id = other, None
    assert end_tokens(model, processor).tolist() == [other, end]
    assert end_tokens(model, bare).tolist() == [other]
    templated = copy.deepcopy(bare)
    templated.chat_template = processor.chat_template
    assert end_tokens(model, templated).tolist() == [other, end]
    named = copy.deepcopy(bare)
    named.tokenizer.eos_token = processor.tokenizer.eos_token
    assert end_tokens(model, named).tolist() == [other, end]
    model.generation_config.eos_token_id = None
    model.config.get_text_config().eos_token_id = end
    assert end_tokens(model, bare).tolist() == [end]
    policy = Policy(model, processor)
    assert not policy.banned_V[end]


def test_control_tokens_without_a_role_are_banned_unless_the_form_of_the_answer_needs_them(processor):
    tagged = copy.deepcopy(processor)
    tagged.tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<answer>", "</answer>", "<|header|>")])
    model = tiny_model(tagged)
    answer, closing, header = tagged.tokenizer.convert_tokens_to_ids(["<answer>", "</answer>", "<|header|>"])
    assert Policy(model, tagged).banned_V[[answer, closing, header]].tolist() == [True, True, True]
    speaking = Policy(model, tagged, spoken=("<answer>", "</answer>", "<think>"))
    assert speaking.banned_V[[answer, closing, header]].tolist() == [False, False, True]
    assert torch.equal(speaking.clone().banned_V, speaking.banned_V)


@pytest.mark.parametrize("named", [None, []])
def test_a_model_without_an_end_token_is_refused_by_its_folder(processor, named):
    model, bare = tiny_model(processor), without_end(processor)
    model.config.get_text_config().eos_token_id = None
    model.generation_config.eos_token_id, bare.tokenizer.name_or_path = named, "models/mine"
    said = r"^models/mine: no end token; set eos_token_id in generation_config\.json$"
    with pytest.raises(ModelFolderError, match=said):
        end_tokens(model, bare)


def test_what_the_generation_config_suppresses_is_banned_unless_it_ends_a_response(processor):
    model = tiny_model(processor)
    model.generation_config.suppress_tokens = [3, processor.tokenizer.eos_token_id]
    policy = Policy(model, processor)
    assert bool(policy.banned_V[3])
    assert not policy.banned_V[policy.end_ids].any()


@pytest.mark.parametrize("strange", [999_999, -1])
def test_a_suppressed_token_that_is_none_is_refused_by_file_and_field(processor, strange):
    model = tiny_model(processor)
    model.generation_config.suppress_tokens = [strange]
    with pytest.raises(ModelFolderError, match=rf"generation_config\.json: suppress_tokens: {strange} is no token"):
        Policy(model, processor)


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


def tokenizer_with(change):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    change(tokenizer)
    return tokenizer


def speaker(change=lambda tokenizer: None, **attributes):
    """A tiny text model with a changed tokenizer."""
    tokenizer = tokenizer_with(change)
    model, _ = tiny_of_kind("qwen3")
    for name, value in attributes.items():
        setattr(model.generation_config, name, value)
    return Policy(model, tokenizer)


def swapped(tokenizer):
    """The ids of two tokens exchanged."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["7"], vocabulary["8"] = vocabulary["8"], vocabulary["7"]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def test_policies_of_one_tokenizer_share_their_vocabulary_whatever_their_weights(policy, ending):
    check_same_vocabulary(policy, ending)
    check_same_vocabulary(speaker(), speaker())


DIFFERENT = {
    "two ids exchanged": ({"change": swapped}, r"the token \d+ is '7' in base and '8' in branch"),
    "one token more": (
        {"change": lambda t: t.add_tokens(["extra"])},
        r"the token \d+ is absent in base and 'extra' in branch",
    ),
    "a token found in other places of a text": (
        {"change": lambda t: t.add_tokens([AddedToken("7", lstrip=True)])},
        "the added token '7' is absent in base and {'id': 24",
    ),
    "another special token": (
        {"change": lambda t: setattr(t, "pad_token", "<|im_start|>")},
        r"special token 'pad_token' is '<\|endoftext\|>' in base and '<\|im_start\|>' in branch",
    ),
    "another end": ({"eos_token_id": 5}, r"the end token 5 is absent in base and 'end' in branch"),
    "another mask": ({"suppress_tokens": [3]}, r"the banned id 3 is absent in base and 'banned' in branch"),
    "another template": (
        {"change": lambda t: setattr(t, "chat_template", "{{ bos_token }}")},
        r"the chat template is .* in base and '{{ bos_token }}' in branch",
    ),
    "another way to cut text": (
        {"change": lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase())},
        r"the tokenizer's 'normalizer' is absent in base and .*Lowercase.* in branch",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference_of_vocabulary_is_named(what):
    arguments, message = DIFFERENT[what]
    with pytest.raises(ModelFolderError, match=message):
        check_same_vocabulary(speaker(), speaker(**arguments))


def test_a_padded_embedding_of_another_size_is_another_vocabulary(policy):
    larger = policy.clone()
    larger.banned_V = torch.cat([larger.banned_V, torch.ones(8, dtype=torch.bool)])
    with pytest.raises(ModelFolderError, match=r"size of the vocabulary is 128 in student and 136 in teacher"):
        check_same_vocabulary(policy, larger, ("student", "teacher"))


def test_pictures_that_are_prepared_otherwise_are_named(policy):
    other = Policy(policy.clone().model, tiny_processor())
    other.processor.image_processor.image_mean = [0.5] * 3
    with pytest.raises(ModelFolderError, match=r"picture processor's 'image_processor' 'image_mean' is \[0\.1"):
        check_same_vocabulary(policy, other)
