"""The places of cached prefixes, and a cache whose rows are repeated."""

import pytest
import torch
from transformers import DynamicCache

from copd.compute.prefixes import select_rows, settle


def test_gradients_flow_from_repeated_rows_back_into_the_cache():
    keys, values = torch.randn(2, 1, 3, 4, requires_grad=True), torch.randn(2, 1, 3, 4, requires_grad=True)
    repeated = select_rows(DynamicCache([(keys, values)]), torch.tensor([1, 1, 0, 1]))
    assert torch.equal(repeated.layers[0].keys, keys[[1, 1, 0, 1]])
    repeated.layers[0].keys.sum().backward()
    assert torch.equal(keys.grad, torch.tensor([1.0, 3.0])[:, None, None, None].expand_as(keys))


@pytest.mark.parametrize(
    ("parents", "places", "moved"),
    [
        ([0, 1, 2], [0, 1, 2], []),
        ([0, 0, 1], [0, 2, 1], [1]),
        ([2, 2, 5], [2, 0, 1], [1, 2]),
        ([3], [0], [0]),
        ([0, 4, 4, 4], [0, 1, 2, 3], [1, 2, 3]),
    ],
)
def test_prefixes_stay_at_their_parents_place_and_fill_the_gaps(parents, places, moved):
    place_M, moved_M = settle(torch.tensor(parents))
    assert place_M.tolist() == places
    assert moved_M.nonzero()[:, 0].tolist() == moved
    assert sorted(places) == list(range(len(parents)))
