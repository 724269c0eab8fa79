"""The decode loop: rows of one prompt that have drawn the same tokens are computed once; finished ones leave.

A prefix is a prompt and the tokens drawn after it. There are as many as prompts at first, and never more than rows.
"""

from __future__ import annotations

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
    tokens_NT = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
    mask_NT = torch.zeros_like(tokens_NT, dtype=torch.bool)
    logp_NT = torch.zeros(rows, max_new_tokens, dtype=torch.float32, device=device)
    finished_N = torch.zeros(rows, dtype=torch.bool, device=device)
    ends_V = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    ends_V[end_ids] = True
    row_R, prefix_R = torch.arange(rows, device=device), prompt_of_N
    for t in range(max_new_tokens):
        step_logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
        token_R = pick(step_logp_MV, prefix_R, None if uniform_NT is None else uniform_NT[row_R, t])
        tokens_NT[row_R, t] = token_R
        mask_NT[row_R, t] = True
        logp_NT[row_R, t] = step_logp_MV[prefix_R, token_R].float()
        ended_R = ends_V[token_R]
        finished_N[row_R] = ended_R
        row_R, prefix_R, token_R = row_R[~ended_R], prefix_R[~ended_R], token_R[~ended_R]
        if t + 1 == max_new_tokens or not len(row_R):
            break
        parent_M, token_M, prefix_R = distinct_prefixes(prefix_R, token_R, vocabulary)
        place_M, logits_MV = prefixes.extend(parent_M, token_M)
        prefix_R = place_M[prefix_R]
    longest = t + 1
    return Decoded(tokens_NT[:, :longest], mask_NT[:, :longest], logp_NT[:, :longest], finished_N)


def pick(logp_MV: Tensor, prefix_R: Tensor, uniform_R: Tensor | None) -> Tensor:
    """The next token of each row after its prefix: drawn by its number, or the most likely one without numbers. [R]."""
    return logp_MV.argmax(-1)[prefix_R] if uniform_R is None else draw(logp_MV, prefix_R, uniform_R)
