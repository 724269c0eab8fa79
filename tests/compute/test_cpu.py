"""The decode step in few operators: what the modules of transformers compute, and only where nothing wraps them."""

from contextlib import nullcontext

import pytest
import torch
from tiny_kinds import tiny_of_kind
from torch import nn

from copd.compute.cpu import LeanStep, can_be_lean
from copd.compute.decode import CachedPrefixes, ModelStep, placed_layers
from copd.compute.family import family_of
from copd.compute.forward import NarrowCache
from copd.model.lora import LoraSettings, add_adapter

STEPS = (([0, 0, 0, 1, 2, 2], 5), ([0, 1, 1, 1, 3, 4, 5, 5], 7), ([2, 6], 9), ([0, 0, 1, 1, 1], 6))
"""The parents of the prefixes of each step, and the token after the first; the others have the next ones."""


def odd_norms(model, seed=0):
    """The model with norms that weigh, where new ones do not."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def qwen3_vl(policy):
    twin = policy.clone()
    odd_norms(twin.model)
    return twin.model, twin.encoder


@torch.no_grad()
def logits_of_steps(model, family, prompts, lean):
    """The logits [M, V] after each of STEPS, by either step."""
    inputs = {"input_ids": prompts.ids_PS, "attention_mask": prompts.mask_PS.long(), **prompts.media}
    positions = family.position_ids(prompts.positions_APS)
    prefill = model(**inputs, position_ids=positions, past_key_values=NarrowCache(), use_cache=True).past_key_values
    room, columns = 8, prompts.mask_PS.shape[1] + len(STEPS)
    if lean:
        end = int(prompts.next_position_P.max()) + len(STEPS)
        step = LeanStep(model.get_decoder(), family, prefill, room, columns, end)
    else:
        step = ModelStep(model, family, placed_layers(prefill, room, columns))
    prefixes = CachedPrefixes(step, prompts, room, len(STEPS), model.get_output_embeddings())
    found, places = [], torch.arange(3)
    for parents, token in STEPS:
        parent_M, order_M = places[torch.tensor(parents)].sort(stable=True)
        place_M, logits = prefixes.extend(parent_M, token + order_M)
        found.append(logits[place_M])
        places = place_M
    return found


def test_each_step_gives_the_logits_of_the_models_own_step(qwen3_vl, problems_of, kind):
    model, encoder = qwen3_vl
    prompts = encoder.encode(problems_of[kind], torch.device("cpu"))
    assert not bool(prompts.mask_PS.all()), "prompts have to differ in length"
    for lean, own in zip(
        *(logits_of_steps(model, encoder.family, prompts, each) for each in (True, False)), strict=True
    ):
        torch.testing.assert_close(lean, own, atol=2e-5, rtol=0)


def test_a_text_only_qwen3_takes_it_too(problems_of):
    from copd.model.policy import Policy

    policy = Policy(*tiny_of_kind("qwen3", seed=1))
    odd_norms(policy.model)
    assert can_be_lean(policy.model, policy.encoder.family)
    prompts = policy.encoder.encode(problems_of["text"], policy.device)
    both = (logits_of_steps(policy.model, policy.encoder.family, prompts, each) for each in (True, False))
    for lean, own in zip(*both, strict=True):
        torch.testing.assert_close(lean, own, atol=2e-5, rtol=0)


class Wrapped(nn.Linear):
    pass


def _hook(decoder):
    decoder.layers[0].mlp.register_forward_hook(lambda *given: None)


def _pre_hook(decoder):
    decoder.layers[1].self_attn.q_proj.register_forward_pre_hook(lambda *given: None)


def _own_forward(decoder):
    decoder.norm.forward = decoder.norm.forward


def _other_class(decoder):
    decoder.layers[0].mlp.up_proj.__class__ = Wrapped


def _float64(decoder):
    decoder.double()


def _rope(decoder):
    decoder.config.rope_parameters["rope_type"] = "yarn"


def _bias(decoder):
    decoder.config.attention_bias = True


@pytest.mark.parametrize("change", [_hook, _pre_hook, _own_forward, _other_class, _float64, _rope, _bias])
def test_it_is_not_taken_where_something_else_would_be_computed(policy, change):
    twin = policy.clone()
    twin.model.config = type(twin.model.config).from_dict(twin.model.config.to_dict())
    decoder = twin.model.get_decoder()
    decoder.config = twin.model.config.text_config
    assert can_be_lean(twin.model, twin.encoder.family)
    change(decoder)
    assert not can_be_lean(twin.model, twin.encoder.family)


def test_it_is_not_taken_under_autocast_or_with_adapters(policy):
    twin = policy.clone()
    for context, expected in ((nullcontext(), True), (torch.autocast("cpu", torch.bfloat16), False)):
        with context:
            assert can_be_lean(twin.model, twin.encoder.family) is expected
    add_adapter(twin.model, "a", LoraSettings(4, 8.0, ("q_proj",)), 0)
    assert not can_be_lean(twin.model, twin.encoder.family)


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl", "gemma3_text"])
def test_it_is_not_taken_by_models_of_another_architecture(name):
    model, processor = tiny_of_kind(name)
    assert not can_be_lean(model, family_of(model, processor))


def test_sampling_takes_it_and_gives_the_answers_of_the_models_own_step(policy, problems_of, kind, monkeypatch):
    def sample():
        generator = torch.Generator().manual_seed(3)
        return policy.sample(problems_of[kind], rollouts_per_prompt=4, generator=generator, max_new_tokens=12)

    steps = []
    step = LeanStep.__call__
    monkeypatch.setattr(LeanStep, "__call__", lambda self, *given: steps.append(1) or step(self, *given))
    lean = sample()
    assert len(steps) == lean.tokens_NT.shape[1] - 1
    monkeypatch.setattr("copd.compute.forward.can_be_lean", lambda *given: False)
    own = sample()
    assert torch.equal(lean.tokens_NT, own.tokens_NT)
    torch.testing.assert_close(lean.logp_NT, own.logp_NT, atol=1e-5, rtol=0)
