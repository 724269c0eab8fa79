"""Attention within windows of a packed sequence."""

import pytest
import torch
from torch.nn import functional as F

from copd.compute.windows import ALIKE, Window, Windows, alike


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([5], [[0]]),
        ([3, 10, 7, 6, 7], [[1, 2, 4], [3], [0]]),
        ([4, 4], [[0, 1]]),
        ([0, 2, 0], [[1], [0, 2]]),
    ],
)
def test_groups_hold_what_is_about_as_large_the_largest_first(sizes, groups):
    assert ALIKE == 0.7
    assert [group.tolist() for group in alike(torch.tensor(sizes))] == groups


TOKENS, HEADS, KEY_HEADS, WIDTH = 8, 4, 2, 8
FIRST = Window(
    torch.tensor([[0, 1, 2], [3, 4, 0]]),
    torch.tensor([[True, True, True], [True, True, False]]),
    torch.ones(3, 3, dtype=torch.bool).tril().expand(2, -1, -1),
)
"""Two prompts: tokens 0 to 2, and 3 and 4."""
SECOND = Window(
    torch.tensor([[5, 6], [7, 0]]),
    torch.tensor([[True, True], [True, False]]),
    torch.tensor([[[1, 1, 0, 1, 0], [1, 1, 0, 1, 1]], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]], dtype=torch.bool),
    torch.tensor([1, 0]),
)
"""Tokens 5 and 6 stand after the second prompt, 7 after the first."""
SEES = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [3], 4: [3, 4], 5: [3, 4, 5], 6: [3, 4, 5, 6], 7: [0, 1, 2, 7]}


@pytest.fixture
def windows():
    return Windows([FIRST, SECOND], TOKENS, torch.device("cpu"))


def states(heads):
    drawn = torch.randn(1, heads, TOKENS, WIDTH, generator=torch.Generator().manual_seed(heads), dtype=torch.float64)
    return drawn.requires_grad_()


def test_attention_is_that_of_one_sequence_with_a_mask_and_so_are_its_gradients(windows):
    mask = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    for token, seen in SEES.items():
        mask[token, seen] = True
    inputs = query, key, value = states(HEADS), states(KEY_HEADS), states(KEY_HEADS)
    found = windows.attend(query, key, value, 0.3)
    repeated = (part.repeat_interleave(HEADS // KEY_HEADS, dim=1) for part in (key, value))
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    gradients = [torch.autograd.grad((each * weight).sum(), inputs) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences(windows):
    inputs = states(HEADS), states(KEY_HEADS), states(KEY_HEADS)
    assert torch.autograd.gradcheck(lambda *each: windows.attend(*each, 0.3), inputs)
