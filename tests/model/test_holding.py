"""Copies on a device, frozen weights in the type of autocast, and places on the CPU for tensors of a card."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from copd.errors import RecipeError
from copd.model.holding import PAGE, _place_for, copied, freeze, hold_in_half
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import GrpoObjective
from copd.model.policy import Policy

TARGETS = ("q_proj", "v_proj", "down_proj")


def rounded(policy):
    """A policy under autocast whose weights bfloat16 holds, as the weights of most published models."""
    twin = policy.clone(autocast=torch.bfloat16)
    twin.load_weights({name: weight.bfloat16().float() for name, weight in twin.weights().items()})
    return twin


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, [problems_of[kind][2] for kind in problems_of])


@pytest.fixture
def graded_images(written, policy, problems_of):
    return written(policy, problems_of["image"])


def types(policy):
    return {name: parameter.dtype for name, parameter in policy.model.named_parameters()}


def test_weights_of_frozen_modules_are_not_trained_nor_saved_and_copies_are_frozen_too(policy):
    twin = policy.clone()
    freeze(twin.model, ["visual", "layers.0"])
    frozen = {name for name in policy.trained_parameters() if ".visual." in name or ".layers.0." in name}
    assert 0 < len(frozen) < len(policy.trained_parameters())
    for model in (twin, twin.clone()):
        learner = Learner(model, learning_rate=1e-3)
        assert set(learner.named_parameters) == set(policy.trained_parameters()) - frozen
        assert not any(name.removeprefix("weight/") in frozen for name in learner.state())
    assert set(twin.weights()) == set(policy.weights())


def test_a_step_with_a_frozen_vision_tower_changes_all_weights_but_its(policy, graded_images):
    twin = policy.clone()
    freeze(twin.model, ["visual"])
    before = twin.weights()
    objective = GrpoObjective("native", graded_images, 1.0, torch.linspace(-1, 1, len(graded_images.tokens_NT)))
    Learner(twin, learning_rate=1e-3).step([objective])
    changed = {name for name, weight in twin.weights().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".visual." not in name}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["vision"], r"model.freeze: no module of the model is called 'vision'; there is visual, language_model"),
        (["isual"], "no module of the model is called 'isual'"),
        (["model"], "model.freeze: model leaves no weight to train; leave a module out"),
    ],
)
def test_a_module_that_is_not_there_and_a_model_with_nothing_to_train_are_told(policy, names, said):
    with pytest.raises(RecipeError, match=said):
        freeze(policy.clone().model, names)


def test_a_copy_has_the_same_numbers_ties_and_gradients_wanted_and_is_independent(policy):
    policy.model.get_input_embeddings().weight.requires_grad_(False)
    twin = copied(policy.model, "cpu")
    assert twin.get_input_embeddings().weight is twin.get_output_embeddings().weight
    own = dict(policy.model.named_parameters())
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, own[name])
        assert parameter.requires_grad == own[name].requires_grad
        assert parameter.data_ptr() != own[name].data_ptr()
    buffers = dict(policy.model.named_buffers())
    assert buffers
    assert all(torch.equal(b, buffers[name]) and b is not buffers[name] for name, b in twin.named_buffers())
    policy.model.get_input_embeddings().weight.requires_grad_(True)


def test_a_copy_is_made_on_the_other_device_without_one_on_its_own(policy):
    twin = copied(policy.model, "meta")
    assert {parameter.device.type for parameter in twin.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in policy.model.parameters()} == {"cpu"}


def test_frozen_weights_in_half_give_every_bit_of_float32_ones_under_autocast(policy, rollouts, problems_of):
    plain, held = rounded(policy), rounded(policy)
    hold_in_half(held.model, torch.bfloat16)
    halves = [kind for kind in types(held).values() if kind == torch.bfloat16]
    assert len(halves) > 30
    assert torch.equal(held.score(rollouts).logp_NT, plain.score(rollouts).logp_NT)
    for kind in ("text", "image", "video"):
        mine, theirs = (each.sample(problems_of[kind][:2], max_new_tokens=6) for each in (held, plain))
        assert torch.equal(mine.tokens_NT, theirs.tokens_NT)
        assert torch.equal(mine.logp_NT, theirs.logp_NT)


def test_norms_embeddings_and_the_head_stay_in_float32(policy):
    held = rounded(policy)
    hold_in_half(held.model, torch.bfloat16)
    whole = {name for name, kind in types(held).items() if kind == torch.float32}
    assert all("norm" in name or "embed" in name for name in whole)
    assert held.model.get_output_embeddings().weight.dtype == torch.float32


def test_a_weight_that_half_would_round_stays_as_it_is(policy):
    held = rounded(policy)
    (name, odd), *_ = ((n, p) for n, p in held.model.named_parameters() if n.endswith("q_proj.weight"))
    with torch.no_grad():
        odd[0, 0] = 1.001
    hold_in_half(held.model, torch.bfloat16)
    assert [n for n, kind in types(held).items() if n.endswith("_proj.weight") and kind == torch.float32] == [name]


def test_an_adapter_on_a_held_base_is_in_float32_and_its_export_is_the_exact_sum(policy, rollouts):
    plain, base = rounded(policy), rounded(policy)
    branches = [base.with_adapter(name, LoraSettings(4, 8.0, TARGETS), 3) for name in ("text", "image")]
    assert any(parameter.dtype == torch.bfloat16 for parameter in base.model.parameters())
    for branch in branches:
        adapter = branch.trained_parameters()
        assert {parameter.dtype for parameter in adapter.values()} == {torch.float32}
        with torch.no_grad():
            for parameter in adapter.values():
                parameter += 0.01
    expected = plain.weights()
    for where in [name.removesuffix(".weight") for name in expected]:
        a, b = (branches[0].trained_parameters().get(f"{where}.lora_{half}.text.weight") for half in "AB")
        if a is not None:
            expected[f"{where}.weight"] = expected[f"{where}.weight"] + 2.0 * (b @ a).detach()
    for weights in (branches[0].weights(), branches[0].clone().weights()):
        assert weights.keys() == expected.keys()
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    assert torch.equal(base.score(rollouts).logp_NT, plain.score(rollouts).logp_NT)


def test_the_first_and_the_second_adapter_of_a_seed_are_equal_whether_or_not_one_was_there(policy):
    base, alone = rounded(policy), rounded(policy)
    settings = LoraSettings(4, 8.0, TARGETS)
    base.with_adapter("text", settings, 3)
    second, first = base.with_adapter("image", settings, 5), alone.with_adapter("image", settings, 5)
    for mine, theirs in zip(second.trained_parameters().values(), first.trained_parameters().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_without_autocast_a_frozen_base_stays_in_float32(policy):
    base = Policy(copied(policy.model, "cpu"), policy.processor)
    base.with_adapter("text", LoraSettings(4, 8.0, TARGETS), 0)
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}


class OfACard(SimpleNamespace):
    """Stands where a tensor of a card would, of which a room needs shape, type and device."""

    is_cuda, device = True, torch.device("cuda", 1)


def of_a_card(*shape, dtype=torch.float32):
    tensor = torch.empty(shape, dtype=dtype)
    return OfACard(shape=tensor.shape, dtype=dtype, nbytes=tensor.nbytes, numel=tensor.numel)


@pytest.fixture
def cuda(monkeypatch):
    """What CUDA is asked to lock, as (card, address, size), and what it answers: 0, or the number of an error."""
    asked = SimpleNamespace(locked=[], unlocked=[], entered=[None], answer=0, taken=[])

    @contextmanager
    def entered(card):
        asked.entered.append(card)
        yield
        asked.entered.pop()

    def register(address, size, flags):
        asked.locked.append((asked.entered[-1], address, size))
        return asked.answer

    cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=asked.unlocked.append)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "device", entered)
    return asked


def test_places_on_the_cpu_are_in_locked_pages_that_no_two_share_and_are_unlocked_with_them(cuda):
    sizes = [((), torch.float32), ((3,), torch.int64), ((1000, 5), torch.bfloat16), ((1024,), torch.float32)]
    places = [_place_for(of_a_card(*shape, dtype=dtype)) for shape, dtype in sizes for _ in range(4)]
    pages = [page for _, first, size in cuda.locked for page in range(first, first + size, PAGE)]
    assert len(cuda.locked) == len(places)
    assert len(set(pages)) == len(pages)
    assert all(page % PAGE == 0 for page in pages)
    for place, (card, first, size), (shape, dtype) in zip(
        places, cuda.locked, [s for s in sizes for _ in range(4)], strict=True
    ):
        assert (card, first, place.shape, place.dtype) == (OfACard.device, place.data_ptr(), torch.Size(shape), dtype)
        assert place.is_contiguous()
        assert place.nbytes <= size
        assert place.untyped_storage().nbytes() >= first + size - place.untyped_storage().data_ptr()
    expected = [first for _, first, _ in cuda.locked]
    del places, place
    assert sorted(cuda.unlocked) == sorted(expected)


def test_where_memory_cannot_be_locked_the_error_is_taken_from_cuda_and_the_room_serves(cuda, monkeypatch):
    def zeros(*size, device):
        cuda.taken.append(device)
        raise RuntimeError("CUDA error: operation not supported")

    cuda.answer = 801
    monkeypatch.setattr(torch, "zeros", zeros)
    place = _place_for(of_a_card(7))
    assert cuda.taken == [OfACard.device]
    place.fill_(3.0)
    del place
    assert cuda.unlocked == []


def test_a_tensor_of_no_card_and_an_empty_one_need_no_lock(cuda):
    assert _place_for(torch.ones(3)).shape == (3,)
    assert _place_for(torch.empty(0)).shape == (0,)
    assert cuda.locked == []
