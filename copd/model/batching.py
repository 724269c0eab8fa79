"""Rows of rollouts, and their split into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from copd.types import Rollouts


def take_rows(rollouts: Rollouts, rows_M: Tensor) -> Rollouts:
    """The given rows, if any, with only the problems they answer, cut to their longest response."""
    prompts, prompt_of_M = torch.unique(rollouts.prompt_of_N[rows_M], return_inverse=True)
    mask_MT = rollouts.mask_NT[rows_M]
    longest = max([1, *mask_MT.sum(-1).tolist()])
    return replace(
        rollouts,
        problems=tuple(rollouts.problems[p] for p in prompts.tolist()),
        tokens_NT=rollouts.tokens_NT[rows_M, :longest],
        mask_NT=mask_MT[:, :longest],
        finished_N=rollouts.finished_N[rows_M],
        logp_NT=rollouts.logp_NT[rows_M, :longest],
        prompt_of_N=prompt_of_M,
        reward_N=None if rollouts.reward_N is None else rollouts.reward_N[rows_M],
        correct_N=None if rollouts.correct_N is None else rollouts.correct_N[rows_M],
    )


def stack_rows(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate [N_b, T_b] tensors along the rows, right padded with zeros to the longest T."""
    longest = max(batch.shape[1] for batch in batches)
    return torch.cat([torch.nn.functional.pad(batch, (0, longest - batch.shape[1])) for batch in batches])


def micro_batches(
    rows_M: Sequence[int],
    prompt_of_N: Sequence[int],
    length_N: Sequence[int],
    *,
    kind_P: Sequence[str],
    prompt_length_P: Sequence[int],
    token_budget: int,
) -> list[Tensor]:
    """Split rows into batches of at most `token_budget` padded tokens, a prompt counted once per batch.

    `length_N` gives the response tokens of each row, `prompt_length_P` the tokens of each prompt. Rows of one group
    stay together where they fit, and a batch holds one kind of prompt. One row alone may exceed the budget: it cannot
    be split further.
    """

    def kind(n: int) -> str:
        return kind_P[prompt_of_N[n]]

    def padded_tokens(rows: list[int]) -> int:
        prompts = {prompt_of_N[n] for n in rows}
        return len(prompts) * max(prompt_length_P[p] for p in prompts) + len(rows) * max(length_N[n] for n in rows)

    groups: dict[tuple[str, int], list[int]] = {}
    for n in rows_M:
        groups.setdefault((kind(n), prompt_of_N[n]), []).append(n)
    batches: list[list[int]] = []
    for _, group in sorted(groups.items()):
        whole = padded_tokens(group) <= token_budget
        for rows in [group] if whole else [[n] for n in group]:
            joins = batches and kind(batches[-1][0]) == kind(rows[0])
            if joins and padded_tokens([*batches[-1], *rows]) <= token_budget:
                batches[-1] += rows
            else:
                batches.append(list(rows))
    return [torch.tensor(rows) for rows in batches]


def unflatten(flat_M: Tensor, mask_NT: Tensor, order_N: Tensor) -> Tensor:
    """Put values of response tokens, concatenated over micro-batches of rows `order_N`, back in their place; else 0."""
    ordered_mask = mask_NT[order_N]
    full = flat_M.new_zeros(*mask_NT.shape, *flat_M.shape[1:])
    full = full.masked_scatter(ordered_mask.reshape(*mask_NT.shape, *[1] * (flat_M.ndim - 1)), flat_M)
    return full[order_N.argsort()]
