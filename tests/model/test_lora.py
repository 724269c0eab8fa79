"""Adapters on one frozen base: what acts, what learns, what is merged, what is saved, and what it takes."""

import copy
import sys
from functools import partial

import pytest
import torch
from merges import mean
from peft import PeftModel
from safetensors.torch import load, save

from copd.errors import RecipeError
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import DistillObjective, GrpoObjective
from copd.model.policy import Policy

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS = LoraSettings(4, 8.0, TARGETS)
NAMES = ("text", "image", "video")


@pytest.fixture
def base(policy):
    """A base of its own, to be frozen."""
    return policy.clone()


def grown(base, seed=0, settings=SETTINGS):
    """Three branches on one base, each with an update that is not zero."""
    branches = {name: base.with_adapter(name, settings, seed + i) for i, name in enumerate(NAMES)}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for branch in branches.values():
            for parameter in branch.trained_parameters().values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return branches


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, [problems_of[kind][2] for kind in problems_of])


def bytes_of(tensors):
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def test_a_new_adapter_changes_nothing(base, policy, rollouts):
    branch = base.with_adapter("text", SETTINGS, seed=3)
    assert torch.equal(branch.score(rollouts).logp_NT, policy.score(rollouts).logp_NT)
    assert branch.model is base.model


def test_a_new_adapter_is_a_function_of_its_seed_and_takes_no_global_random_numbers(policy, assert_same):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, again, other = (policy.clone().with_adapter("text", SETTINGS, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(2), expected)
    weights = [{n: p.detach() for n, p in branch.trained_parameters().items()} for branch in (first, again, other)]
    assert_same(weights[0], weights[1])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_peers_score_is_that_of_its_materialised_model_whoever_acted_before(base, policy, rollouts):
    branches = grown(base)
    alone = {name: branch.clone() for name, branch in branches.items()}
    assert all(twin.model is not base.model and twin.adapter is None for twin in alone.values())
    for name in ("text", "video", "image", "text", "image"):
        found = branches[name].score(rollouts).logp_NT
        torch.testing.assert_close(found, alone[name].score(rollouts).logp_NT, atol=2e-5, rtol=0)
        assert float((found - policy.score(rollouts).logp_NT).abs().max()) > 1e-3


def test_the_base_is_without_any_adapter_whoever_acted_before(base, policy, rollouts):
    branches = grown(base)
    for name in NAMES:
        branches[name].score(rollouts)
        assert torch.equal(base.score(rollouts).logp_NT, policy.score(rollouts).logp_NT)


def test_a_branch_samples_with_its_own_adapter(base, problems_of, kind):
    branches = grown(base)
    found = {name: branch.sample(problems_of[kind], max_new_tokens=8) for name, branch in branches.items()}
    for name, branch in branches.items():
        torch.testing.assert_close(found[name].logp_NT, branch.score(found[name]).logp_NT, atol=1e-5, rtol=0)
        assert torch.equal(found[name].tokens_NT, branch.clone().sample(problems_of[kind], max_new_tokens=8).tokens_NT)
    assert not torch.equal(found["text"].tokens_NT, found["image"].tokens_NT)


def test_no_gradient_and_no_step_reaches_the_base_or_another_adapter(base, rollouts, assert_same):
    branches = grown(base)
    learner = Learner(branches["text"], learning_rate=1e-2, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    teacher = branches["image"].score(rollouts)
    report = learner.step([DistillObjective("opd", rollouts, 1.0, teacher.logp_NT, partial(clamped_delta, bound=5.0))])
    assert report.metrics["opd/delta_abs"] > 1e-3
    after = {name: p.detach() for name, p in base.model.named_parameters()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith((".lora_A.text.weight", ".lora_B.text.weight"))}
    assert moved == set(learner.named_parameters)
    assert all(p.grad is None for p in base.model.parameters())


def test_log_probs_of_one_adapter_depend_on_its_own_parameters_alone(base, rollouts):
    branches = grown(base)
    logp = branches["video"].logp(rollouts).sum()
    named = dict(base.model.named_parameters())
    trainable = {name: p for name, p in named.items() if p.requires_grad}
    assert set(trainable) == set(branches["video"].trained_parameters())
    gradients = torch.autograd.grad(logp, list(trainable.values()))
    assert all(bool(gradient.any()) for gradient in gradients)


def test_the_gradient_is_that_of_the_materialised_weights_through_the_two_factors(base, rollouts, gradients):
    branch = grown(base)["text"]
    found = branch.trained_parameters()
    logp = branch.logp(rollouts).mean()
    grads = dict(zip(found, torch.autograd.grad(logp, list(found.values())), strict=True))
    whole = branch.clone()
    full = gradients(whole, whole.logp(rollouts).mean())
    where = "model.language_model.layers.1.mlp.up_proj"
    a, b = (found[f"{where}.lora_{half}.text.weight"].detach() for half in "AB")
    scale = SETTINGS.alpha / SETTINGS.rank
    torch.testing.assert_close(
        grads[f"{where}.lora_B.text.weight"], scale * full[f"{where}.weight"] @ a.T, atol=1e-6, rtol=1e-3
    )
    torch.testing.assert_close(
        grads[f"{where}.lora_A.text.weight"], scale * b.T @ full[f"{where}.weight"], atol=1e-6, rtol=1e-3
    )


def test_state_through_a_file_goes_on_bit_identically_and_holds_the_adapter_alone(policy, rollouts, assert_same):
    def learner_of(seed):
        branch = policy.clone().with_adapter("text", SETTINGS, seed)
        return Learner(branch, learning_rate=1e-2)

    def objective(learner):
        return GrpoObjective("grpo", rollouts, 1.0, torch.tensor([1.0, -1.0] * 3))

    learner, twin = learner_of(0), learner_of(9)
    learner.step([objective(learner)])
    state = load(save(learner.state()))
    assert all(".lora_" in name for name in state if name != "skipped_in_a_row")
    twin.load_state(state)
    for each in (learner, twin):
        each.step([objective(each)])
    assert_same(twin.state(), learner.state())


def test_the_merge_of_adapters_is_the_merge_of_the_full_weights_exported_per_branch(base, tmp_path, assert_same):
    branches = grown(base)
    merged = mean([branch.weights() for branch in branches.values()])
    exported = []
    for name, branch in branches.items():
        branch.save(tmp_path / name, "card")
        again = Policy.from_pretrained(tmp_path / name)
        exported.append(again.weights())
    assert_same(merged, mean(exported))
    assert merged.keys() == base.clone().weights().keys()


def test_full_weights_are_base_plus_scale_times_b_a(base, policy, assert_same):
    branch = grown(base)["image"]
    parameters = {name: p.detach() for name, p in branch.trained_parameters().items()}
    expected = policy.weights()
    for name in expected:
        where = name.removesuffix(".weight")
        if f"{where}.lora_A.image.weight" in parameters:
            a, b = (parameters[f"{where}.lora_{half}.image.weight"] for half in "AB")
            expected[name] = expected[name] + 2.0 * b @ a
    assert_same(branch.weights(), expected, atol=1e-6)
    assert_same(branch.clone().weights(), expected, atol=1e-6)


def test_the_mean_of_the_factors_is_not_the_mean_of_the_updates(base, policy):
    branches = grown(base)
    where = "model.language_model.layers.0.self_attn.q_proj"
    halves = {
        half: torch.stack(
            [branch.trained_parameters()[f"{where}.lora_{half}.{name}.weight"] for name, branch in branches.items()]
        ).detach()
        for half in "AB"
    }
    right = mean([branch.weights() for branch in branches.values()])[f"{where}.weight"]
    update = right - policy.weights()[f"{where}.weight"]
    of_factors = 2.0 * halves["B"].mean(0) @ halves["A"].mean(0)
    torch.testing.assert_close(update, 2.0 * (halves["B"] @ halves["A"]).mean(0), atol=1e-6, rtol=0)
    assert float((update - of_factors).norm() / update.norm()) > 0.5


def test_the_saved_adapter_is_loaded_by_peft_onto_the_base(base, policy, rollouts, tmp_path):
    branch = grown(base)["video"]
    branch.save(tmp_path / "video", "card")
    loaded = PeftModel.from_pretrained(copy.deepcopy(policy.model), tmp_path / "video" / "adapter").merge_and_unload()
    found = Policy(loaded, policy.processor).score(rollouts).logp_NT
    torch.testing.assert_close(found, branch.score(rollouts).logp_NT, atol=2e-5, rtol=0)
    assert (tmp_path / "video" / "model.safetensors").is_file()


def trained(policies, rollouts):
    """A learner per policy after one step: all state is there."""
    learners = [Learner(policy, learning_rate=1e-3) for policy in policies]
    for learner in learners:
        learner.step([GrpoObjective("grpo", rollouts, 1.0, torch.tensor([1.0, -1.0] * 3))])
    return learners


def footprint(learners):
    """Bytes of weights, of a gradient for each trained parameter, and of the optimizer's state; shared ones once."""
    weights = [p for learner in learners for p in learner.policy.model.parameters()]
    trained = [p for learner in learners for p in learner.named_parameters.values()]
    state = [v for learner in learners for s in learner.optimizer.state.values() for v in s.values()]
    return bytes_of(weights) + bytes_of(trained) + bytes_of(state)


def test_three_lora_branches_take_less_than_one_and_a_half_full_ones(base, policy, rollouts):
    branches = [base.with_adapter(name, LoraSettings(16, 32.0, TARGETS), i) for i, name in enumerate(NAMES)]
    lora, full = footprint(trained(branches, rollouts)), footprint(trained([policy.clone()], rollouts))
    assert full == pytest.approx(4 * bytes_of(policy.model.parameters()), rel=0.01)
    assert lora < 1.5 * full


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens", "layers"])
def test_a_target_that_can_have_no_adapter_is_refused_with_those_that_can(base, target):
    with pytest.raises(RecipeError, match=rf"lora\.targets: '{target}' is no linear layer.*accepted: .*down_proj"):
        base.with_adapter("text", LoraSettings(4, 8.0, ("q_proj", target)), 0)
    assert not getattr(base.model, "peft_config", None)


def test_without_peft_the_message_names_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match="lora: needs peft: pip install peft"):
        policy.clone().with_adapter("text", SETTINGS, 0)
