"""AdamW's state in float32, in 8 bits and on the CPU: its updates, its bytes, and its way to a file."""

import sys

import pytest
import torch
from safetensors.torch import load, save

from copd.errors import CheckpointError, RecipeError
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.model.optimizers import KINDS, QUANTIZED_FROM

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}


@pytest.fixture
def rollouts(written, policy, problems_of):
    return written(policy, problems_of["text"])


def objective(rollouts):
    return GrpoObjective("grpo", rollouts, 1.0, torch.tensor([1.0, -1.0] * 3))


def made(kind, weights):
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    return parameters, KINDS[kind].make(parameters, **OPTIONS)


def updates(kind, weights, gradients):
    """How far each step moves the weights."""
    parameters, optimizer = made(kind, weights)
    moved = []
    for gradient in gradients:
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter, own in zip(parameters, gradient, strict=True):
            parameter.grad = own.clone()
        optimizer.step()
        moved.append(torch.cat([(p - b).flatten() for p, b in zip(parameters, before, strict=True)]).detach())
    return moved


@pytest.fixture
def problem():
    """Two weights, one too small for 8 bits, and the gradients of 20 steps: a direction and noise."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 128), (32,)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    slope = [torch.randn(shape, generator=generator) for shape in shapes]
    noise = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(20)]
    return weights, [[0.1 * (s + n) for s, n in zip(slope, each, strict=True)] for each in noise]


def test_on_the_cpu_every_update_has_the_bits_of_adamw(problem):
    for mine, theirs in zip(updates("adamw_on_cpu", *problem), updates("adamw", *problem), strict=True):
        assert torch.equal(mine, theirs)


def test_in_8_bits_an_update_is_that_of_float32_within_five_percent(problem):
    pytest.importorskip("bitsandbytes")
    found, expected = updates("adamw_8bit", *problem), updates("adamw", *problem)
    errors = [float((mine - theirs).norm() / theirs.norm()) for mine, theirs in zip(found, expected, strict=True)]
    assert max(errors) < 0.05
    assert max(errors) > 1e-4, "8 bits cannot be exact"
    small = problem[0][1].numel()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine[-small:], theirs[-small:], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("kind", "bytes_per_weight"), [("adamw", 8.0), ("adamw_8bit", 2.03), ("adamw_on_cpu", 8.0)])
def test_the_state_has_the_shapes_that_are_told_and_takes_so_many_bytes(kind, bytes_per_weight):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    (large, small), optimizer = made(kind, [torch.ones(256, 256), torch.ones(QUANTIZED_FROM - 1)])
    large.grad, small.grad = torch.ones_like(large), torch.ones_like(small)
    optimizer.step()
    for parameter in (large, small):
        state = {n: torch.as_tensor(v) for n, v in optimizer.state[parameter].items() if not n.startswith("qmap")}
        assert {name: value.shape for name, value in state.items()} == KINDS[kind].shapes(parameter)
    state = [torch.as_tensor(optimizer.state[large][name]) for name in KINDS[kind].shapes(large)]
    assert sum(value.nbytes for value in state) / large.numel() == pytest.approx(bytes_per_weight, rel=0.02)


@pytest.mark.parametrize("kind", ["adamw_8bit", "adamw_on_cpu"])
def test_a_state_through_a_file_goes_on_with_the_same_bits(policy, rollouts, assert_same, kind):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    learner, again = (Learner(policy.clone(), learning_rate=1e-3, kind=kind) for _ in range(2))
    for _ in range(2):
        learner.step([objective(rollouts)])
    again.load_state(load(save({name: tensor.contiguous() for name, tensor in learner.state().items()})))
    for each in (learner, again):
        each.step([objective(rollouts)])
    assert_same(again.state(), learner.state())


def test_a_state_of_another_kind_is_refused_by_name(policy, rollouts):
    pytest.importorskip("bitsandbytes")
    learner = Learner(policy.clone(), learning_rate=1e-3)
    learner.step([objective(rollouts)])
    with pytest.raises(CheckpointError, match=r"tensor 'state1/.*' is missing"):
        Learner(policy.clone(), learning_rate=1e-3, kind="adamw_8bit").load_state(learner.state())


def test_a_state_on_the_cpu_does_not_follow_the_weights(policy, rollouts):
    learner, follower = (Learner(policy.clone(), learning_rate=1e-3, kind=k) for k in ("adamw_on_cpu", "adamw"))
    for each in (learner, follower):
        each.step([objective(rollouts)])
        each.to("meta")
    devices = [
        {v.device.type for s in each.optimizer.state.values() for v in s.values()} for each in (learner, follower)
    ]
    assert devices == [{"cpu"}, {"meta"}]


def test_without_bitsandbytes_the_message_names_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        RecipeError, match=r"optimizer\.kind: adamw_8bit needs bitsandbytes: pip install 'copd\[adamw8bit\]'"
    ):
        Learner(policy.clone(), learning_rate=1e-3, kind="adamw_8bit")
