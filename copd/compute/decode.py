"""The decode loop: rows of one prompt that have drawn the same tokens are computed once; finished ones leave.

A prefix is a prompt and the tokens drawn after it. There are as many as prompts at first, and never more than rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from copd.maths.logprobs import draw, masked_log_softmax


class Decoded(NamedTuple):
    """Sampled tokens, their mask, log-probs, and which rows met an end token; on the model's device."""

    tokens_NT: Tensor
    mask_NT: Tensor
    logp_NT: Tensor
    finished_N: Tensor


class Prefixes(Protocol):
    """The prefixes that some row has drawn and goes on from, each at a place of its own."""

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the prefixes by M others: the one at place `parent_M[m]`, in ascending order, and one more token.

        The place of each of the M [M], and the logits of the tokens after them, by place. [M, V].
        """
        ...


def distinct_prefixes(prefix_R: Tensor, token_R: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that go on as distinct prefixes: the parent and last token of each [M], and which of them a row has. [R]."""
    pair_M, prefix_R = torch.unique(prefix_R * vocabulary + token_R, return_inverse=True)
    return pair_M // vocabulary, pair_M % vocabulary, prefix_R


@torch.no_grad()
def decode(
    prefixes: Prefixes,
    logits_MV: Tensor,
    prompt_of_N: Tensor,
    *,
    banned_V: Tensor,
    end_ids: Tensor,
    uniform_NT: Tensor | None,
    max_new_tokens: int,
    temperature: float,
) -> Decoded:
    """Continue each row until an end token or `max_new_tokens`.

    `prefixes` are the bare prompts at first, `logits_MV` the logits after them. `uniform_NT` holds one number in [0, 1)
    per row and position (None = greedy), so that an answer does not depend on which other rows are alive.
    """
    rows, device, vocabulary = len(prompt_of_N), logits_MV.device, logits_MV.shape[-1]
    steps: list[tuple[Tensor, ...]] = []
    ends_V = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    ends_V[end_ids] = True
    row_R, prefix_R = torch.arange(rows, device=device), prompt_of_N
    for t in range(max_new_tokens):
        step_logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
        token_R = pick(step_logp_MV, prefix_R, None if uniform_NT is None else uniform_NT[row_R, t])
        ended_R = ends_V.index_select(0, token_R)
        steps.append((row_R, token_R, step_logp_MV[prefix_R, token_R].float(), ended_R))
        left_L = ended_R.logical_not().nonzero()[:, 0]
        if t + 1 == max_new_tokens or not len(left_L):
            break
        row_R, prefix_R, token_R = (each.index_select(0, left_L) for each in (row_R, prefix_R, token_R))
        parent_M, token_M, prefix_R = distinct_prefixes(prefix_R, token_R, vocabulary)
        place_M, logits_MV = prefixes.extend(parent_M, token_M)
        prefix_R = place_M.index_select(0, prefix_R)
    return _collected(steps, rows)


def _collected(steps: Sequence[tuple[Tensor, ...]], rows: int) -> Decoded:
    """What was drawn at each step, for the rows that were still going on: which, token, log-prob, whether it ended."""
    row_S, token_S, logp_S, ended_S = (torch.cat(each) for each in zip(*steps, strict=True))
    counts_T = torch.tensor([len(step[0]) for step in steps], device=row_S.device)
    at = row_S, torch.arange(len(steps), device=row_S.device).repeat_interleave(counts_T)
    tokens_NT = token_S.new_zeros(rows, len(steps)).index_put_(at, token_S)
    mask_NT = torch.zeros_like(tokens_NT, dtype=torch.bool).index_put_(at, torch.ones_like(ended_S))
    logp_NT = logp_S.new_zeros(rows, len(steps)).index_put_(at, logp_S)
    finished_N = ended_S.new_zeros(rows).index_fill_(0, row_S[ended_S], value=True)
    return Decoded(tokens_NT, mask_NT, logp_NT, finished_N)


def pick(logp_MV: Tensor, prefix_R: Tensor, uniform_R: Tensor | None) -> Tensor:
    """The next token of each row after its prefix: drawn by its number, or the most likely one without numbers. [R]."""
    return logp_MV.argmax(-1)[prefix_R] if uniform_R is None else draw(logp_MV, prefix_R, uniform_R)
