"""TF32: on within the products of a linear layer, forward and backward, and nowhere else."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from copd.compute import devices
from copd.compute.forward import in_float32
from copd.compute.tf32 import LinearInTf32, tf32


class Settings(TorchDispatchMode):
    """Remembers the setting at each operator."""

    def __init__(self):
        super().__init__()
        self.of = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of.append((func.__name__, torch.backends.cuda.matmul.fp32_precision))
        return func(*args, **(kwargs or {}))


def products(settings):
    return [setting for name, setting in settings.of if name in ("mm.default", "bmm.default", "addmm.default")]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Linear(6, 5, bias=False, dtype=torch.float64)


def test_products_of_a_linear_layer_are_in_tf32_forward_and_backward_and_no_other(head):
    before = torch.backends.cuda.matmul.fp32_precision
    states = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    with Settings() as settings:
        with LinearInTf32():
            logits = head(states * 2)
            logits @ logits.T
        logits.sum().backward()
    assert products(settings) == ["tf32", before, "tf32", "tf32"]
    assert {setting for name, setting in settings.of if name == "mul.Tensor"} == {before}
    assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"


def test_the_setting_comes_back_after_an_error():
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(RuntimeError), tf32():
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 6), (2, 1, 6)])
def test_results_and_gradients_are_those_of_the_layer(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, bias=bias, dtype=torch.float64)
    states = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [states, *layer.parameters()]
    with LinearInTf32():
        found = layer(states)
    expected = layer(states)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
    gradients = [torch.autograd.grad(result.square().sum(), inputs) for result in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("ways", "setting"), [(devices.CARD, "tf32"), (devices.OTHER, "none")])
def test_under_autocast_the_head_of_a_card_is_in_tf32_and_any_other_in_float32(head, ways, setting, monkeypatch):
    monkeypatch.setitem(devices.WAYS, "cpu", ways)
    head = head.float()
    with Settings() as settings, torch.autocast("cpu", torch.bfloat16):
        logits = in_float32(head)(torch.randn(3, 6, dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert products(settings) == [setting]


def test_without_autocast_the_head_of_a_card_is_in_float32(head, monkeypatch):
    monkeypatch.setitem(devices.WAYS, "cpu", devices.CARD)
    with Settings() as settings:
        in_float32(head)(torch.randn(3, 6, dtype=torch.float64))
    assert products(settings) == ["none"]
