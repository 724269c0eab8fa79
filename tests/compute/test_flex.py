"""Attention by blocks: who sees whom, which blocks are left out, and the same log-probs as in windows."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from copd.compute import devices, flex
from copd.compute.flex import BLOCK, GRAIN, Blocks, block_mask, owners, padded_length, sees
from copd.compute.layout import laid_out
from copd.compute.windows import windows_of

CPU = torch.device("cpu")
SIZES = {
    "uneven": ([5, 3, 4], [3, 4, 1, 6, 2, 3], [1, 0, 2, 0, 1, 1]),
    "one row": ([4], [5], [0]),
    "rows of one token": ([2, 6], [1, 1, 1], [0, 1, 1]),
    "blocks": ([150, 20, 129], [100, 1, 130, 160, 20, 30, 70], [0, 0, 2, 0, 1, 2, 1]),
}
"""Lengths of prompts and of responses, and the prompt of each response."""


@pytest.fixture(params=SIZES)
def layout(request):
    return laid_out(*(torch.tensor(each) for each in SIZES[request.param]))


@pytest.fixture
def as_on_a_card(monkeypatch):
    """Log-probs are computed as on a card, by torch's own reference of the kernel, with less padding."""
    monkeypatch.setattr(flex, "GRAIN", BLOCK)
    monkeypatch.setattr(flex, "compiled", lambda: flex_attention)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *states: None)  # it refuses gradients on a CPU
    monkeypatch.setitem(devices.WAYS, "cpu", devices.CARD)


def defined(layout, length):
    """The mask by its definition, token by token."""
    mask = torch.eye(length, dtype=torch.bool)
    for first, size in zip(layout.first_P.tolist(), layout.length_P.tolist(), strict=True):
        for token in range(first, first + size):
            mask[token, first : token + 1] = True
    for n, p in enumerate(layout.prompt_of_N.tolist()):
        first, before = int(layout.first_N[n]), int(layout.first_P[p])
        for token in range(first, first + int(layout.length_N[n])):
            mask[token, before : before + int(layout.length_P[p])] = True
            mask[token, first : token + 1] = True
    return mask


def found(layout, length):
    places = torch.arange(length)
    return sees(*owners(layout, length))(None, None, places[:, None], places)


def states(layout, heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(1, layout.tokens, heads, 16, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()


def test_a_token_sees_its_prompt_and_row_up_to_itself_and_padding_itself(layout):
    length = layout.tokens + 7
    assert torch.equal(found(layout, length), defined(layout, length))


def test_blocks_are_those_that_torch_finds_in_the_whole_mask(layout, monkeypatch):
    length = -(-layout.tokens // BLOCK) * BLOCK + BLOCK
    monkeypatch.setattr(flex, "PAIRS_AT_ONCE", 2 * BLOCK * length)
    mask = sees(*owners(layout, length))
    mine, theirs = block_mask(mask, length, CPU), create_block_mask(mask, None, None, length, length, CPU)
    assert mine.shape == theirs.shape
    for name in ("kv", "full_kv", "q", "full_q"):
        (count, order), (their_count, their_order) = (
            (getattr(each, f"{name}_num_blocks"), getattr(each, f"{name}_indices")) for each in (mine, theirs)
        )
        assert torch.equal(count, their_count)
        assert torch.equal(order, their_order)


def test_the_mask_of_all_pairs_never_exists(monkeypatch):
    length, most = 8 * BLOCK, 2 * BLOCK * 8 * BLOCK
    monkeypatch.setattr(flex, "PAIRS_AT_ONCE", most)
    sizes = []

    def mask(batch, head, query, key):
        sizes.append(len(query) * len(key))
        return key <= query

    block_mask(mask, length, CPU)
    assert sizes == [most] * 4


def test_whole_blocks_between_other_rows_are_left_out():
    """Of 144 blocks: two prompts of two blocks, each with two rows of two. A row leaves out the row before it."""
    layout = laid_out(torch.tensor([256, 256]), torch.tensor([257] * 4), torch.tensor([0, 0, 1, 1]))
    blocks = block_mask(sees(*owners(layout, layout.tokens)), layout.tokens, CPU)
    assert (int(blocks.kv_num_blocks.sum()), int(blocks.full_kv_num_blocks.sum())) == (12, 2 * (1 + 2 + 3 + 2 + 3))


@pytest.mark.parametrize(
    ("tokens", "length"),
    [(1, 2048), (2048, 2048), (2049, 4096), (16_384, 16_384), (16_385, 18_432), (100_000, 106_496), (131_073, 147_456)],
)
def test_lengths_are_few(tokens, length):
    assert padded_length(tokens) == length


def test_padding_is_at_most_an_eighth_and_fits_the_blocks():
    lengths = range(8 * GRAIN, 2**18, 997)
    assert all(0 <= padded_length(n) - n < n / 8 and padded_length(n) % BLOCK == 0 for n in lengths)
    assert len({padded_length(n) for n in lengths}) == 4 * 8 + 1


def test_attention_is_that_of_a_mask_by_its_definition_and_of_windows_and_so_are_its_gradients(layout, as_on_a_card):
    inputs = query, key, value = states(layout, 6), states(layout, 2), states(layout, 2)
    weight = torch.randn(1, layout.tokens, 6, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    repeated = (part.repeat_interleave(3, dim=1) for part in (key, value))
    mask = defined(layout, layout.tokens)
    results = [
        Blocks(layout, CPU).attend(*inputs, 0.3),
        windows_of(layout, CPU).attend(*inputs, 0.3),
        F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2),
    ]
    gradients = [torch.autograd.grad((result * weight).sum(), inputs) for result in results]
    for result, gradient in zip(results[:2], gradients[:2], strict=True):
        torch.testing.assert_close(result, results[2], atol=1e-12, rtol=0)
        for one, other in zip(gradient, gradients[2], strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_log_probs_and_gradients_are_those_of_windows(
    request, policy64, written, problems_of, gradients, assert_same, kind
):
    rollouts = written(policy64, problems_of[kind])
    expected = policy64.logp(rollouts)
    request.getfixturevalue("as_on_a_card")
    logp_NT = policy64.logp(rollouts)
    torch.testing.assert_close(logp_NT, expected, atol=1e-10, rtol=0)
    assert_same(gradients(policy64, logp_NT.sum()), gradients(policy64, expected.sum()), atol=1e-8)
