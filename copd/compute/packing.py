"""Prompts and responses to them in one sequence without padding, so that a prompt is computed once for its rows.

A prompt's tokens attend to the prompt. The tokens of a row attend to their prompt and to the row. No cache is needed.
transformers calls `attend` if a model's configuration names `ATTENTION` (its `AttentionInterface`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from copd.compute.devices import Seen, computing_on
from copd.compute.encode import Prompts
from copd.compute.layout import Layout, laid_out, spread
from copd.types import Rollouts

ATTENTION = "copd_packed"


class Packed(NamedTuple):
    """One sequence of X tokens: prompts, each followed by its rows without their last tokens, which predict nothing.

    prompts    token ids, positions and media, in the form of one prompt
    seen       which tokens each token attends to
    before_M   place of the token before each of the M response tokens, row by row
    """

    prompts: Prompts
    seen: Seen
    before_M: Tensor


def pack(prompts: Prompts, rollouts: Rollouts) -> Packed:
    """Prompts and responses in one sequence, on the device of the prompts."""
    device, prompt_of_N = prompts.ids_PS.device, rollouts.prompt_of_N.cpu()
    layout = laid_out(prompts.mask_PS.sum(-1).cpu(), rollouts.mask_NT.cpu().sum(-1), prompt_of_N)
    row_M, t_M = rollouts.mask_NT.cpu().nonzero(as_tuple=True)
    before_M = layout.first_N[row_M] + t_M - 1
    begins_M = t_M == 0
    last_P = layout.first_P + layout.length_P - 1
    before_M[begins_M] = last_P[prompt_of_N[row_M[begins_M]]]
    seen = computing_on(device).attention(layout, device)
    return Packed(_sequence(prompts, rollouts, layout), seen, before_M.to(device))


def _sequence(prompts: Prompts, rollouts: Rollouts, layout: Layout) -> Prompts:
    """Ids and positions of all tokens. A response continues after the last position of its prompt."""
    device, mask_PS, positions_APS = prompts.ids_PS.device, prompts.mask_PS.cpu(), prompts.positions_APS.cpu()
    ids_X = torch.empty(layout.tokens, dtype=torch.long)
    positions_AX = torch.empty(len(positions_APS), layout.tokens, dtype=torch.long)
    place_PS, real_PS = spread(layout.first_P, layout.length_P)
    ids_X[place_PS[real_PS]] = prompts.ids_PS.cpu()[mask_PS]
    positions_AX[:, place_PS[real_PS]] = positions_APS[:, mask_PS]
    place_NT, real_NT = spread(layout.first_N, layout.length_N)
    ids_X[place_NT[real_NT]] = rollouts.tokens_NT.cpu()[:, : real_NT.shape[1]][real_NT]
    next_N = prompts.next_position_P.cpu()[layout.prompt_of_N]
    positions_AX[:, place_NT[real_NT]] = (next_N[:, None] + torch.arange(real_NT.shape[1]))[real_NT]
    return Prompts(
        ids_X[None].to(device),
        torch.ones(1, layout.tokens, dtype=torch.bool, device=device),
        positions_AX[:, None].to(device),
        prompts.media_of_P,
    )


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Within this context the language model uses the attention that transformers knows by this name."""
    config = model.get_decoder().config
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


def attention_as_now(model: Any) -> tuple[Any, Any]:
    """Contexts for a layer's forward pass and its repetition in the backward pass. Both use the current attention."""
    return nullcontext(), attention(model, model.get_decoder().config._attn_implementation)


def attend(
    module: Any,
    query_1HXD: Tensor,
    key_1KXD: Tensor,
    value_1KXD: Tensor,
    attention_mask: None,
    scaling: float,
    *,
    seen: Seen,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface, to what is `seen`. [1, X, H, D].

    It is computed in the type of the values. Under autocast, norms and rotations leave queries and keys in float32.
    """
    query, key = (states.to(value_1KXD.dtype) for states in (query_1HXD, key_1KXD))
    return seen.attend(query, key, value_1KXD, scaling), None


AttentionInterface.register(ATTENTION, attend)
