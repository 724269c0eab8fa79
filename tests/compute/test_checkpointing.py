"""Gradient checkpointing: the same numbers from fewer bytes, without a cache; sampling keeps its own."""

import pytest
import torch
from tiny_kinds import tiny_of_kind

from copd.errors import RecipeError
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import GrpoObjective
from copd.model.policy import Policy


def checkpointed(policy):
    return policy.clone(gradient_checkpointing=True)


def waiting_bytes(policy, rollouts):
    """Bytes of the tensors that the forward pass keeps for the backward pass, parameters and shared storages once."""
    kept = {}
    parameters = {p.data_ptr() for p in policy.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.logp(rollouts)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "plain"])
def test_gradients_are_those_without_checkpointing(
    policy64, written, problems_of, gradients, assert_same, kind, packing
):
    rollouts = written(policy64, problems_of[kind])
    twin = checkpointed(policy64)
    twin.packing = packing
    plain_NT, found_NT = policy64.logp(rollouts), twin.logp(rollouts)
    torch.testing.assert_close(found_NT, plain_NT, atol=1e-10, rtol=0)
    plain = gradients(policy64, plain_NT.mean())
    assert max(g.abs().max() for g in plain.values()) > 1e-3
    assert_same(gradients(twin, found_NT.mean()), plain, atol=1e-10)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5_vl", "gemma3", "mamba"])
def test_gradients_of_other_kinds_are_those_without_checkpointing(name, written, problems_of, gradients, assert_same):
    policy = Policy(*tiny_of_kind(name))
    policy.shared_prefix = False
    twin = checkpointed(policy)
    rollouts = written(policy, problems_of["text"])
    assert_same(gradients(twin, twin.logp(rollouts).mean()), gradients(policy, policy.logp(rollouts).mean()), atol=1e-6)


def test_layers_that_are_recomputed_take_the_same_path_as_others(policy, written, problems_of):
    """Neither the plain path nor packed log-probs need a cache."""
    rollouts, lengths = written(policy, problems_of["text"][:1], [(20,) * 8]), []
    for packing in (False, True):
        for on in (False, True):
            twin = policy.clone(gradient_checkpointing=on)
            twin.packing = packing
            twin.model.register_forward_pre_hook(
                lambda module, args, inputs: lengths.append(inputs["input_ids"].shape), with_kwargs=True
            )
            twin.score(rollouts)
    (prompt,) = policy.encoder.lengths(rollouts.problems)
    packed = (1, prompt + 8 * 19)
    assert lengths == [(8, prompt + 20), (8, prompt + 20), packed, packed]


def test_fewer_bytes_wait_for_the_backward_pass(policy, written, problems_of):
    rollouts = written(policy, problems_of["image"])
    packed, plain = policy.clone(), policy.clone()
    plain.packing = False
    for each in (packed, plain):
        assert waiting_bytes(checkpointed(each), rollouts) < 0.5 * waiting_bytes(each, rollouts)


def test_a_teacher_that_is_the_student_still_gives_exactly_no_delta(policy, written, problems_of):
    twin = checkpointed(policy)
    rollouts = written(twin, problems_of["image"])
    assert torch.equal(twin.logp(rollouts).detach(), twin.score(rollouts).logp_NT)


def test_sampling_keeps_the_cache(policy, problems_of, kind):
    twin, tokens = checkpointed(policy), []
    twin.model.register_forward_pre_hook(
        lambda module, args, inputs: tokens.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    found = twin.sample(problems_of[kind], max_new_tokens=8)
    assert len(tokens) == 1, "one pass through the root: the prefill"
    assert torch.equal(found.tokens_NT, policy.sample(problems_of[kind], max_new_tokens=8).tokens_NT)


def test_no_layer_is_left_in_training_mode(policy, written, problems_of):
    twin = checkpointed(policy)
    rollouts = written(twin, problems_of["text"])
    objective = GrpoObjective("grpo", rollouts, 1.0, torch.tensor([1.0, -1.0] * 3))
    assert not Learner(twin, learning_rate=1e-4).step([objective]).skipped
    assert not any(module.training for module in twin.model.modules())


def test_an_adapter_learns_under_checkpointing_as_without(policy, written, problems_of, assert_same):
    rollouts = written(policy, problems_of["text"])
    found = []
    for on in (False, True):
        branch = policy.clone(gradient_checkpointing=on).with_adapter("a", LoraSettings(4, 8.0, ("q_proj",)), 0)
        logp = branch.logp(rollouts).mean()
        parameters = branch.trained_parameters()
        found.append(dict(zip(parameters, torch.autograd.grad(logp, list(parameters.values())), strict=True)))
    assert any(g.any() for g in found[0].values())
    assert_same(*found, atol=1e-6)


def test_a_model_without_checkpointing_is_refused(policy, monkeypatch):
    monkeypatch.setattr(type(policy.model), "supports_gradient_checkpointing", False)
    with pytest.raises(RecipeError, match=r"model\.gradient_checkpointing: Qwen3VL.* has none"):
        checkpointed(policy)
