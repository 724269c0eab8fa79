"""Linear layers by oneDNN: the same numbers and gradients, where they are taken, and what they leave alone."""

import copy

import pytest
import torch
from torch import nn

from copd.compute import products
from copd.compute.products import LEAST, ROWS, QuickLinear, pays, quicken

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch has no oneDNN here")
SHAPES = [(300, 128, 64), (256, 64, 192), (ROWS * 3, 192, 192), (2500, 48, 32)]


def pair(inputs, outputs, *, bias):
    """A layer of torch and the same one quickened."""
    plain = nn.Linear(inputs, outputs, bias=bias)
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert type(quick) is QuickLinear
    return plain, quick


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """The products of oneDNN are checked on every CPU, also where torch's own are taken."""
    monkeypatch.setattr(products, "_there", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_quick_layer_has_the_values_and_gradients_of_torchs_in_double_precision(rows, inputs, outputs, bias):
    torch.manual_seed(0)
    plain, quick = pair(inputs, outputs, bias=bias)
    exact = copy.deepcopy(plain).double()
    matrix = torch.randn(2, rows // 2, inputs)
    weight = torch.randn(2, rows // 2, outputs)
    found = {}
    for layer in (quick, exact):
        given = matrix.to(layer.weight.dtype, copy=True).requires_grad_()
        result = layer(given)
        (result * weight).sum().backward()
        found[layer] = [result, given.grad, *(p.grad for p in layer.parameters())]
    assert pays(matrix, quick.weight)
    for one, other in zip(found[quick], found[exact], strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-5 * (1 + other.abs().max())


def test_the_operator_is_called_where_it_pays_and_only_there(monkeypatch):
    calls = []
    real = products.product
    monkeypatch.setattr(products, "product", lambda *each: calls.append(each[0].shape) or real(*each))
    _, quick = pair(128, 128, bias=False)
    few = LEAST * torch.get_num_threads() // (128 * 128)
    quick(torch.randn(few - 1, 128))
    assert calls == []
    quick(torch.randn(few, 128))
    assert calls == [(-(-few // ROWS) * ROWS, 128)]


@pytest.mark.parametrize("case", ["float64", "autocast", "no AVX-512"])
def test_torchs_own_products_are_taken(case, monkeypatch):
    monkeypatch.setattr(products, "product", None)
    if case == "no AVX-512":
        monkeypatch.setattr(products, "_there", lambda: False)
    plain, quick = pair(128, 128, bias=True)
    matrix = torch.randn(2000, 128)
    if case == "float64":
        plain, quick, matrix = plain.double(), quick.double(), matrix.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert torch.equal(quick(matrix), plain(matrix))


def test_a_frozen_layer_has_no_gradient_and_passes_one_on():
    plain, quick = pair(128, 64, bias=False)
    for layer in (plain, quick):
        layer.requires_grad_(False)
    gradients = []
    for layer in (plain, quick):
        matrix = torch.ones(600, 128, requires_grad=True)
        layer(matrix).sum().backward()
        gradients.append(matrix.grad)
    assert quick.weight.grad is None
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_layers_of_other_classes_and_the_one_named_are_left_alone():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    quicken(model, but=model[3])
    assert [type(layer) for layer in model] == [Own, QuickLinear, nn.ReLU, nn.Linear]


def test_the_linear_layers_of_a_policy_are_quick_and_linear_layers_still(policy):
    layer = policy.model.get_decoder().layers[0].mlp.up_proj
    assert type(layer) is QuickLinear
    assert isinstance(layer, nn.Linear)
    assert set(layer.state_dict()) == {"weight"}
    assert type(policy.model.get_output_embeddings()) is nn.Linear
