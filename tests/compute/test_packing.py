"""Prompts and responses in one sequence: where each token stands, whom it sees, and the attention within windows."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from copd.compute.packing import ALIKE, Window, Windows, alike, attend, pack
from copd.types import Rollouts

ROWS = ((0, (5, 6, 7)), (1, (5, 6)), (0, (5, 6, 8)), (0, (9,)), (0, (5, 6, 7)))
"""Prompt and tokens of each response: of several lengths, the rows of a prompt not all next to each other."""


@pytest.fixture
def rollouts(problems_of):
    """`ROWS` as answers to two problems."""
    longest = max(len(tokens) for _, tokens in ROWS)
    tokens_NT = torch.tensor([[*tokens, *[3] * (longest - len(tokens))] for _, tokens in ROWS])
    mask_NT = torch.arange(longest) < torch.tensor([len(tokens) for _, tokens in ROWS])[:, None]
    return Rollouts(
        problems=problems_of["text"][:2],
        tokens_NT=tokens_NT,
        mask_NT=mask_NT,
        finished_N=torch.ones(len(ROWS), dtype=torch.bool),
        logp_NT=torch.zeros(mask_NT.shape),
        prompt_of_N=torch.tensor([p for p, _ in ROWS]),
        temperature=1.0,
    )


@pytest.fixture
def encoded(policy, problems_of):
    """The two problems' prompts."""
    return policy.encoder.encode(problems_of["text"][:2], torch.device("cpu"))


def prompt_ids(encoded, prompt: int) -> list[int]:
    return encoded.ids_PS[prompt][encoded.mask_PS[prompt]].tolist()


def response_tokens() -> list[tuple[int, tuple[int, ...]]]:
    """Of each of the M response tokens, row by row: its prompt, and the tokens before it in its row."""
    return [(p, tokens[:t]) for p, tokens in ROWS for t in range(len(tokens))]


def seen(windows, token: int) -> list[int]:
    """Where in the sequence the tokens stand that this one attends to."""
    for window, sees_BTS, after_B in zip(windows.each, windows.sees, windows.after, strict=True):
        for b, t in ((window.token_BT == token) & window.real_BT).nonzero().tolist():
            first = windows.each[0].token_BT[after_B[b]] if after_B is not None else window.token_BT[b][:0]
            return torch.cat([first, window.token_BT[b]])[sees_BTS[b, t]].tolist()
    raise AssertionError(f"nobody has token {token}")


def test_a_prompt_stands_once_before_its_rows_without_their_last_tokens(rollouts, encoded):
    packed = pack(encoded, rollouts)
    first, second = prompt_ids(encoded, 0), prompt_ids(encoded, 1)
    assert packed.prompts.ids_PS[0].tolist() == [*first, 5, 6, 5, 6, 5, 6, *second, 5]


def test_what_stands_before_a_response_token_sees_its_prompt_and_row_up_to_there_and_nothing_else(rollouts, encoded):
    packed = pack(encoded, rollouts)
    ids_X = packed.prompts.ids_PS[0]
    for before, (prompt, tokens) in zip(packed.before_M.tolist(), response_tokens(), strict=True):
        assert ids_X[seen(packed.windows, before)].tolist() == [*prompt_ids(encoded, prompt), *tokens]


def test_a_prompt_token_sees_those_before_it_and_itself(rollouts, encoded):
    packed = pack(encoded, rollouts)
    begins = {p: b for b, (p, tokens) in zip(packed.before_M.tolist(), response_tokens(), strict=True) if not tokens}
    for prompt, last in begins.items():
        first = last - len(prompt_ids(encoded, prompt)) + 1
        assert all(seen(packed.windows, t) == list(range(first, t + 1)) for t in range(first, last + 1))


def test_a_response_goes_on_at_the_position_after_its_prompt(rollouts, encoded):
    packed = pack(encoded, rollouts)
    for before, (prompt, tokens) in zip(packed.before_M.tolist(), response_tokens(), strict=True):
        last = int(encoded.next_position_P[prompt]) - 1
        assert packed.prompts.positions_APS[0, 0, before] == last + len(tokens)


def test_a_row_of_no_tokens_takes_no_room(rollouts, encoded):
    empty = replace(rollouts, mask_NT=rollouts.mask_NT & (torch.arange(len(ROWS)) != 0)[:, None])
    packed = pack(encoded, empty)
    assert len(packed.before_M) == int(empty.mask_NT.sum())
    assert packed.prompts.ids_PS.shape[1] == pack(encoded, rollouts).prompts.ids_PS.shape[1] - 2


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
    found = attend(None, query, key, value, None, 0.3, windows=windows)[0]
    repeated = (part.repeat_interleave(HEADS // KEY_HEADS, dim=1) for part in (key, value))
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    gradients = [torch.autograd.grad((each * weight).sum(), inputs) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_gradients_are_those_of_finite_differences(windows):
    inputs = states(HEADS), states(KEY_HEADS), states(KEY_HEADS)
    assert torch.autograd.gradcheck(lambda *each: attend(None, *each, None, 0.3, windows=windows)[0], inputs)
