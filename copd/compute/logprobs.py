"""Log-probs, entropies and likeliest tokens of responses, on the policy's path and for a bounded number of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from copd.compute.batching import distinct_rows, take_rows, unflatten
from copd.compute.devices import computing_on
from copd.compute.encode import Encoder, Prompts, Responses
from copd.compute.forward import Finish, Forward, Head
from copd.compute.packing import pack
from copd.maths.divergences import Target
from copd.maths.logprobs import TokenStats, token_stats
from copd.types import Rollouts, Score


class Computes(Protocol):
    """What log-probs need of a policy: model, encoder, vocabulary mask, device and path."""

    device: torch.device
    encoder: Encoder
    forward: Forward
    banned_V: Tensor

    @property
    def packs(self) -> bool:
        """Whether prompts and responses are packed into one sequence."""
        ...

    @property
    def allowed_tokens(self) -> int:
        """Number of tokens that the vocabulary mask allows."""
        ...

    def micro_batches(self, rollouts: Rollouts, rows_M: Tensor) -> list[Tensor]:
        """Split rows by the policy's token budget."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """The context of every forward."""
        ...


@torch.no_grad()
def response_score(
    policy: Computes,
    rollouts: Rollouts,
    *,
    k: int = 0,
    ids_NTK: Tensor | None = None,
    whole: bool = False,
    version: int = 0,
) -> Score:
    """Log-probs of the responses, of the k most likely tokens, of the tokens `ids_NTK`, and of all; on the CPU.

    Equal responses to one prompt are computed once if their `ids_NTK` are equal too. Raises ValueError if k exceeds the
    number of tokens that the vocabulary mask allows.
    """
    if k > policy.allowed_tokens:
        raise ValueError(f"k={k} is larger than the {policy.allowed_tokens} tokens of the masked vocabulary")
    every_N = torch.arange(len(rollouts.tokens_NT))
    asked_N = None if ids_NTK is None else torch.unique(ids_NTK.flatten(1), dim=0, return_inverse=True)[1]
    distinct = distinct_rows(rollouts, every_N, asked_N)
    batches = policy.micro_batches(rollouts, distinct.rows_D)
    stats = []
    for rows in batches:
        part = take_rows(rollouts, rows)
        ids = None if ids_NTK is None else ids_NTK[rows, : part.tokens_NT.shape[1]]
        stats.append(response_stats(policy, part, k=k, ids_NTK=ids, whole=whole))
    found = TokenStats(*map(joined, zip(*stats, strict=True)))

    def placed(values_M: Tensor | None) -> Any:
        if values_M is None:
            return None
        return unflatten(values_M.cpu(), rollouts.mask_NT, torch.cat(batches))[distinct.place_M]

    whole_MV = found.whole_MV
    if whole_MV is not None:
        whole_MV = whole_MV.cpu()[placed(torch.arange(len(whole_MV)))[rollouts.mask_NT]]
    return Score(
        placed(found.logp_M),
        version,
        topk_ids_NTK=placed(found.topk_ids_MK),
        topk_logp_NTK=placed(found.topk_logp_MK),
        at_ids_NTK=placed(found.at_ids_MK),
        whole_MV=whole_MV,
    )


def response_stats(
    policy: Computes,
    rollouts: Rollouts,
    *,
    k: int = 0,
    ids_NTK: Tensor | None = None,
    whole: bool = False,
    target: Target | None = None,
) -> TokenStats:
    """Statistics of the M response tokens of one micro-batch, row by row; see `copd.maths.logprobs.token_stats`.

    A bounded number of logits exists at a time (`copd.compute.devices`). If there are more, the backward pass
    recomputes them.
    """
    prompts = policy.encoder.encode(rollouts.problems, policy.device)
    mask_NT = rollouts.mask_NT.to(policy.device)
    ids_M = rollouts.tokens_NT.to(policy.device)[mask_NT]
    at_ids_MK = None if ids_NTK is None else ids_NTK.to(policy.device)[mask_NT]
    run, select = _packed(policy, prompts, rollouts) if policy.packs else _plain(policy, prompts, rollouts, mask_NT)
    kept: list[TokenStats] = []

    def stats(head: Head, hidden: Tensor, part: slice) -> TokenStats:
        return token_stats(
            head(hidden),
            ids_M[part],
            policy.banned_V,
            temperature=rollouts.temperature,
            k=k,
            at_ids_MK=None if at_ids_MK is None else at_ids_MK[part],
            whole=whole,
            target=None if target is None else target.of(part, policy.device),
        )

    def finish(hidden: Tensor, head: Head) -> Tensor:
        size = max(1, computing_on(policy.device).logits // len(policy.banned_V))
        kept.append(_chunked(partial(stats, head), select(hidden), size))
        return torch.stack([values for values in (kept[0].logp_M, kept[0].divergence_M) if values is not None])

    with policy.computing():
        logp_M, *divergence_M = run(finish)
    return kept[0]._replace(logp_M=logp_M, divergence_M=divergence_M[0] if divergence_M else None)


Run = Callable[[Finish], Any]
"""Runs a forward and returns the result of the given `Finish`."""
Select = Callable[[Tensor], Tensor]
"""Selects, from the hidden states of a forward, those that predict the M response tokens. [M, D]."""


def _packed(policy: Computes, prompts: Prompts, rollouts: Rollouts) -> tuple[Run, Select]:
    packed = pack(prompts, rollouts)
    return partial(policy.forward.packed, packed), lambda hidden_1XD: hidden_1XD[0, packed.before_M]


def _plain(policy: Computes, prompts: Prompts, rollouts: Rollouts, mask_NT: Tensor) -> tuple[Run, Select]:
    rows = Responses(rollouts.tokens_NT.to(policy.device), mask_NT, rollouts.prompt_of_N.to(policy.device), prompts)
    return partial(policy.forward.plain, prompts, rows), lambda hidden_NTD: hidden_NTD[mask_NT]


def _chunked(stats: Callable[[Tensor, slice], TokenStats], hidden_MD: Tensor, size: int) -> TokenStats:
    """`stats` of M hidden states, of at most `size` at a time."""
    if len(hidden_MD) <= size:
        return stats(hidden_MD, slice(None))
    parts = [slice(first, first + size) for first in range(0, len(hidden_MD), size)]
    found = [checkpoint(stats, hidden_MD[part], part, use_reentrant=False) for part in parts]
    return TokenStats(*map(joined, zip(*found, strict=True)))


def joined(values: Sequence[Tensor | None]) -> Any:
    """The concatenation, or None if there is nothing to concatenate."""
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
