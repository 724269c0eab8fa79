"""The plain mean of branches, and what is refused by name."""

import math

import pytest
import torch

from copd.maths.merge import check_mergeable, mean


def branch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(3, 2, generator=generator).to(dtype),
        "norm.bias": torch.randn(4, generator=generator).to(dtype),
    }


def test_mean_by_hand():
    merged = mean([{"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([2.0, 4.0])}, {"w": torch.tensor([6.0, 4.0])}])
    assert merged["w"].tolist() == [3.0, 2.0]


def test_mean_matches_a_naive_loop():
    branches = [branch(seed) for seed in range(5)]
    merged = mean(branches)
    for name in ("embed.weight", "norm.bias"):
        flat = [b[name].flatten().tolist() for b in branches]
        expected = [math.fsum(values) / 5 for values in zip(*flat, strict=True)]
        assert merged[name].flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_mean_of_equal_branches_is_the_branch(copies):
    merged = mean([branch(0)] * copies)
    for name, tensor in branch(0).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=0)


def test_order_of_the_branches_does_not_matter():
    branches = [branch(seed) for seed in range(3)]
    for name, tensor in mean(branches[::-1]).items():
        torch.testing.assert_close(tensor, mean(branches)[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_merge_keeps_the_branches_type_and_shape(dtype):
    merged = mean([branch(0, dtype), branch(1, dtype)])
    assert {name: (t.dtype, t.shape) for name, t in merged.items()} == {
        name: (dtype, t.shape) for name, t in branch(0).items()
    }


def test_small_differences_survive_since_the_mean_is_taken_in_float32():
    branches = [{"w": torch.tensor([value], dtype=torch.bfloat16)} for value in (256.0, 1.0, 1.0)]
    assert mean(branches)["w"].item() == 86.0


def test_branches_are_left_as_they_were_and_share_no_memory_with_the_merge():
    branches = [branch(0), branch(1)]
    for tensor in mean(branches).values():
        tensor.fill_(9.0)
    for seed, kept in enumerate(branches):
        assert all(torch.equal(kept[name], tensor) for name, tensor in branch(seed).items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [0, 2])
def test_a_value_that_is_not_finite_is_refused_with_tensor_and_branch(value, k):
    branches = [branch(seed) for seed in range(3)]
    branches[k]["norm.bias"][1] = value
    with pytest.raises(ValueError, match=rf"'norm\.bias' .*not finite in branch {k}"):
        mean(branches)


REFUSED = [
    pytest.param({"norm.bias": torch.zeros(5)}, r"'norm\.bias' is \[5\] in branch 1 and \[4\] in branch 0", id="shape"),
    pytest.param({"norm.bias": torch.zeros(1, 4)}, r"'norm\.bias' is \[1, 4\] in branch 1", id="rank"),
    pytest.param({"norm.bias": torch.zeros(4).double()}, r"'norm\.bias' is torch\.float64 in branch 1", id="type"),
    pytest.param(
        {"head.weight": torch.zeros(2)}, r"branch 1 and branch 0 differ in tensor 'head\.weight'", id="untied"
    ),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_branches_that_do_not_match_are_refused_with_the_tensor_named(changed, message):
    with pytest.raises(ValueError, match=message):
        mean([branch(0), {**branch(1), **changed}, branch(2)])


def test_a_tensor_missing_in_a_later_branch_is_named():
    short = branch(2)
    del short["embed.weight"]
    with pytest.raises(ValueError, match=r"branch 2 and branch 0 differ in tensor 'embed\.weight'"):
        check_mergeable([branch(0), branch(1), short])


def test_no_branches_are_refused():
    with pytest.raises(ValueError, match="no branches"):
        mean([])
