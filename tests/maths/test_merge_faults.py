"""Merges that fail: what is told of settings that do not fit, and what is passed on as it is."""

import pytest
import torch
from merges import merge

from copd.maths.merge import merge_tensor


def test_slerp_of_three_branches_is_refused_with_their_number():
    with pytest.raises(ValueError, match="'slerp' merges two branches, found 3"):
        merge([{"w": torch.ones(2)}] * 3, method="slerp", weights=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("weight", [1e300, 1.7e308], ids=["beyond float32", "beyond float64 once summed"])
def test_weights_beyond_all_numbers_are_refused_with_the_tensor(weight):
    with pytest.raises(ValueError, match=r"^'w' cannot be merged: the weights or the scale are too large$"):
        merge([{"w": torch.zeros(2)}] * 2, method="weighted", weights=[weight, weight])


def test_what_torch_says_of_anything_but_large_numbers_is_passed_on():
    with pytest.raises(RuntimeError, match="equal size"):
        merge_tensor("mean", "w", [torch.ones(2), torch.ones(3)], None)
