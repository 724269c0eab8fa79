"""Rows of rollouts: selecting them, finding equal ones, and splitting them into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from copd.types import Problem, Rollouts


def answered(problems: Sequence[Problem], prompt_of_N: Tensor, rows_M: Tensor) -> list[Problem]:
    """The problems that rows answer, each once."""
    return [problems[p] for p in prompt_of_N[rows_M].unique().tolist()]


def take_rows(rollouts: Rollouts, rows_M: Tensor) -> Rollouts:
    """The given rows, if any, with only the problems that they answer. T is the length of their longest response."""
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
        likeliest_NTK=None if rollouts.likeliest_NTK is None else rollouts.likeliest_NTK[rows_M, :longest],
    )


class Distinct(NamedTuple):
    """The D distinct rows among M given rows: the first of each set of equal rows.

    rows_D    the distinct rows, in the order in which they were given
    copies_D  how many of the given rows equal each, itself included
    place_M   the place in `rows_D` of the row that equals each given row
    """

    rows_D: Tensor
    copies_D: Tensor
    place_M: Tensor


def distinct_rows(rollouts: Rollouts, rows_M: Tensor, key_N: Tensor | None = None) -> Distinct:
    """Find the distinct rows. Rows are equal if prompt and tokens are equal, and with `key_N` their keys too.

    The end token is a token of the response; padding is not. A key that is NaN equals no other key.
    """
    tokens_MT = torch.where(rollouts.mask_NT[rows_M], rollouts.tokens_NT[rows_M], -1)
    columns = [rollouts.prompt_of_N[rows_M, None], tokens_MT]
    if key_N is not None:
        columns.append(torch.unique(key_N[rows_M], return_inverse=True)[1][:, None])
    _, class_M, copies_D = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True, return_counts=True)
    given_M = torch.arange(len(rows_M))
    first_D = torch.zeros_like(copies_D).scatter_reduce(0, class_M, given_M, "amin", include_self=False)
    order_D = first_D.argsort()
    return Distinct(rows_M[first_D[order_D]], copies_D[order_D], order_D.argsort()[class_M])


def stack_rows(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate [N_b, T_b] tensors along the rows, right padded with zeros to the largest T."""
    longest = max(batch.shape[1] for batch in batches)
    return torch.cat([torch.nn.functional.pad(batch, (0, longest - batch.shape[1])) for batch in batches])


class Load(NamedTuple):
    """The contents of a micro-batch, its rows in the order of their prompts. Lengths are in tokens."""

    prompts: int
    last_prompt: int
    longest_prompt: int
    prompt_tokens: int
    rows: int
    longest_row: int
    row_tokens: int

    def followed_by(self, piece: Load) -> Load:
        """Both together. The rows of `piece` have one prompt, which may be the last that is here."""
        new = piece.last_prompt != self.last_prompt
        return Load(
            self.prompts + new,
            piece.last_prompt,
            max(self.longest_prompt, piece.longest_prompt),
            self.prompt_tokens + new * piece.prompt_tokens,
            self.rows + piece.rows,
            max(self.longest_row, piece.longest_row),
            self.row_tokens + piece.row_tokens,
        )


Held = Callable[[Load], int]
"""The tokens that a pass over a micro-batch holds."""


def packed_tokens(load: Load) -> int:
    """Of packed log-probs: prompts once, and rows, without padding."""
    return load.prompt_tokens + load.row_tokens


def plain_tokens(load: Load) -> int:
    """Of log-probs on the plain path, and of a cache: each row is a prompt and a response, padded to the longest."""
    return load.rows * (load.longest_prompt + load.longest_row)


def read_tokens(load: Load) -> int:
    """Of a prefill: prompts, padded to the longest."""
    return load.prompts * load.longest_prompt


def sampled_tokens(load: Load) -> int:
    """Of sampling with a cache that has no budget: prompts once, padded to the longest, and rows.

    The cache may have twice as many tokens, since keys and values are a small part of what a pass holds of a token.
    """
    together = load.prompts * load.longest_prompt + load.rows * load.longest_row
    return max(together, (plain_tokens(load) + 1) // 2)


def sampling_budget(micro_batch_tokens: int, cache_tokens: int | None) -> tuple[Held, int]:
    """What counts the tokens of a batch that is sampled at once, off cards, and the most that it may have."""
    return (sampled_tokens, micro_batch_tokens) if cache_tokens is None else (plain_tokens, cache_tokens)


def micro_batches(
    rows_M: Sequence[int],
    prompt_of_N: Sequence[int],
    length_N: Sequence[int],
    *,
    kind_P: Sequence[str],
    prompt_length_P: Sequence[int],
    token_budget: int,
    held: Held,
) -> list[Tensor]:
    """Split rows into batches that hold at most `token_budget` tokens.

    `length_N` gives the response tokens of each row, `prompt_length_P` the tokens of each prompt. Rows of one group
    stay together if they fit; else the group is halved until its pieces fit. A batch holds one kind of prompt. A batch
    of one row may exceed the budget, since a row cannot be split.
    """

    def load(rows: Sequence[int]) -> Load:
        prompt = prompt_of_N[rows[0]]
        length, lengths = prompt_length_P[prompt], [length_N[n] for n in rows]
        return Load(1, prompt, length, length, len(rows), max(lengths), sum(lengths))

    def pieces(rows: list[int]) -> Iterator[tuple[list[int], Load]]:
        whole, half = load(rows), (len(rows) + 1) // 2
        if len(rows) == 1 or held(whole) <= token_budget:
            yield rows, whole
        else:
            yield from pieces(rows[:half])
            yield from pieces(rows[half:])

    groups: dict[tuple[str, int], list[int]] = {}
    for n in rows_M:
        groups.setdefault((kind_P[prompt_of_N[n]], prompt_of_N[n]), []).append(n)
    batches: list[list[int]] = []
    last_kind, last = "", Load(0, -1, 0, 0, 0, 0, 0)
    for (kind, _), group in sorted(groups.items()):
        for rows, alone in pieces(group):
            together = last.followed_by(alone)
            if kind == last_kind and held(together) <= token_budget:
                batches[-1] += rows
                last = together
            else:
                batches.append(list(rows))
                last_kind, last = kind, alone
    return [torch.tensor(rows) for rows in batches]


def unflatten(flat_M: Tensor, mask_NT: Tensor, order_D: Tensor) -> Tensor:
    """Put values of response tokens, concatenated over micro-batches of rows `order_D`, in their places; 0 elsewhere.

    [D, T, ...], with rows in ascending order: all rows of the mask, or some of them.
    """
    mask_DT = mask_NT[order_D]
    full = flat_M.new_zeros(*mask_DT.shape, *flat_M.shape[1:])
    full = full.masked_scatter(mask_DT.reshape(*mask_DT.shape, *[1] * (flat_M.ndim - 1)), flat_M)
    return full[order_D.argsort()]
