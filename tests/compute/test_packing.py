"""Prompts and responses in one sequence: where each token stands, and whom it sees."""

from dataclasses import replace

import pytest
import torch

from copd.compute.packing import attend, pack
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
        assert ids_X[seen(packed.seen, before)].tolist() == [*prompt_ids(encoded, prompt), *tokens]


def test_a_prompt_token_sees_those_before_it_and_itself(rollouts, encoded):
    packed = pack(encoded, rollouts)
    begins = {p: b for b, (p, tokens) in zip(packed.before_M.tolist(), response_tokens(), strict=True) if not tokens}
    for prompt, last in begins.items():
        first = last - len(prompt_ids(encoded, prompt)) + 1
        assert all(seen(packed.seen, t) == list(range(first, t + 1)) for t in range(first, last + 1))


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


def test_queries_and_keys_are_taken_in_the_type_of_the_values(rollouts, encoded):
    """Under autocast, norms and rotations leave them in float32. A mask in another type would be kept by each layer."""
    packed = pack(encoded, rollouts)
    tokens = packed.prompts.ids_PS.shape[1]
    query, key, value = (torch.randn(1, heads, tokens, 8) for heads in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(None, query, key, value.bfloat16(), None, 0.3, seen=packed.seen)[0]
    assert found.dtype == torch.bfloat16
    assert list(packed.seen._added) == [(2, torch.bfloat16)]
