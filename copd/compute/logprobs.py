"""Log-probs, entropies and likeliest tokens of responses, on the policy's path and for a bounded number of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from copd.compute.encode import Encoder, Prompts, Responses
from copd.compute.forward import Finish, Forward, Head
from copd.compute.packing import pack
from copd.maths.logprobs import TokenStats, token_stats
from copd.types import Rollouts

CHUNK_ELEMENTS = 1 << 25
"""Most logits that exist at once: 128 MiB in float32."""


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

    def computing(self) -> AbstractContextManager[None]:
        """The context of every forward."""
        ...


def response_stats(policy: Computes, rollouts: Rollouts, *, k: int = 0, ids_NTK: Tensor | None = None) -> TokenStats:
    """Statistics of the M response tokens of one micro-batch, row by row. Log-probs are differentiable.

    At most `CHUNK_ELEMENTS` logits exist at a time. If there are more, the backward pass recomputes them.
    """
    prompts = policy.encoder.encode(rollouts.problems, policy.device)
    mask_NT = rollouts.mask_NT.to(policy.device)
    ids_M = rollouts.tokens_NT.to(policy.device)[mask_NT]
    at_ids_MK = None if ids_NTK is None else ids_NTK.to(policy.device)[mask_NT]
    run, select = _packed(policy, prompts, rollouts) if policy.packs else _plain(policy, prompts, rollouts, mask_NT)
    kept: list[TokenStats] = []

    def finish(hidden: Tensor, head: Head) -> Tensor:
        kept.append(_chunked(select(hidden), head, ids_M, policy.banned_V, rollouts.temperature, k, at_ids_MK))
        return kept[0].logp_M

    with policy.computing():
        logp_M = run(finish)
    return kept[0]._replace(logp_M=logp_M)


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


def _chunked(
    hidden_MD: Tensor,
    head: Head,
    ids_M: Tensor,
    banned_V: Tensor,
    temperature: float,
    k: int,
    at_ids_MK: Tensor | None,
) -> TokenStats:
    def stats(hidden: Tensor, ids: Tensor, at_ids: Tensor | None) -> TokenStats:
        return token_stats(head(hidden), ids, banned_V, temperature=temperature, k=k, at_ids_MK=at_ids)

    size = max(1, CHUNK_ELEMENTS // len(banned_V))
    if len(hidden_MD) <= size:
        return stats(hidden_MD, ids_M, at_ids_MK)
    at_ids = [None] * len(ids_M.split(size)) if at_ids_MK is None else at_ids_MK.split(size)
    chunks = [
        checkpoint(stats, *chunk, use_reentrant=False)
        for chunk in zip(hidden_MD.split(size), ids_M.split(size), at_ids, strict=True)
    ]
    return TokenStats(*map(joined, zip(*chunks, strict=True)))


def joined(values: Sequence[Tensor | None]) -> Any:
    """The concatenation, or None if there is nothing to concatenate."""
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
