"""The decode loop: a prompt's cache repeated for its rows, finished rows dropped, one uniform number per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from copd.maths.logprobs import draw, masked_log_softmax
from copd.model.encode import Prompts


class Decoded(NamedTuple):
    """Sampled tokens, their mask, log-probs, and which rows met an end token; on the model's device."""

    tokens_NT: Tensor
    mask_NT: Tensor
    logp_NT: Tensor
    finished_N: Tensor


def select_rows(cache: DynamicCache, rows_N: Tensor) -> DynamicCache:
    """A cache whose row n is row `rows_N[n]` of `cache`; gradients flow back into `cache`."""
    return DynamicCache(
        [(layer.keys.index_select(0, rows_N), layer.values.index_select(0, rows_N)) for layer in cache.layers]
    )


def pick(logp_NV: Tensor, uniform_N: Tensor | None) -> Tensor:
    """The next token of each row: drawn by its uniform number, or the most likely one without numbers. [N]."""
    return logp_NV.argmax(-1) if uniform_N is None else draw(logp_NV, uniform_N)


@torch.no_grad()
def decode(
    model: Any,
    prompts: Prompts,
    cache: DynamicCache,
    last_logits_PV: Tensor,
    prompt_of_N: Tensor,
    *,
    banned_V: Tensor,
    end_ids: Tensor,
    uniform_NT: Tensor | None,
    max_new_tokens: int,
    temperature: float,
) -> Decoded:
    """Continue each row's prompt until an end token or `max_new_tokens`.

    `cache` and `last_logits_PV` are the prefill of the P prompts. `uniform_NT` holds one number in [0, 1) per row and
    position (None = greedy), so that a row's answer does not depend on which other rows are still alive.
    """
    rows, device = len(prompt_of_N), prompts.ids_PS.device
    tokens_NT = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
    mask_NT = torch.zeros_like(tokens_NT, dtype=torch.bool)
    logp_NT = torch.zeros(rows, max_new_tokens, dtype=torch.float32, device=device)
    finished_N = torch.zeros(rows, dtype=torch.bool, device=device)
    alive = _Alive(
        rows_M=torch.arange(rows, device=device),
        cache=select_rows(cache, prompt_of_N),
        position_M=prompts.next_position_P[prompt_of_N],
        attention_MS=prompts.mask_PS[prompt_of_N],
    )
    logits_MV = last_logits_PV[prompt_of_N]
    for t in range(max_new_tokens):
        step_logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
        token_M = pick(step_logp_MV, None if uniform_NT is None else uniform_NT[alive.rows_M, t])
        tokens_NT[alive.rows_M, t] = token_M
        mask_NT[alive.rows_M, t] = True
        logp_NT[alive.rows_M, t] = step_logp_MV.gather(-1, token_M[:, None])[:, 0].float()
        ended_M = torch.isin(token_M, end_ids)
        finished_N[alive.rows_M[ended_M]] = True
        if t + 1 == max_new_tokens or bool(ended_M.all()):
            break
        if bool(ended_M.any()):
            stay = (~ended_M).nonzero()[:, 0]
            alive.keep(stay)
            token_M = token_M[stay]
        logits_MV = alive.advance(model, token_M)
    longest = int(mask_NT.sum(-1).max())
    return Decoded(tokens_NT[:, :longest], mask_NT[:, :longest], logp_NT[:, :longest], finished_N)


@dataclass
class _Alive:
    """The rows that have not met an end token: which they are, their cache, and where they stand."""

    rows_M: Tensor
    cache: DynamicCache
    position_M: Tensor
    attention_MS: Tensor

    def keep(self, stay: Tensor) -> None:
        """Drop all rows but `stay`, indices among those alive."""
        self.cache.batch_select_indices(stay)
        self.rows_M, self.position_M, self.attention_MS = (
            self.rows_M[stay],
            self.position_M[stay],
            self.attention_MS[stay],
        )

    def advance(self, model: Any, token_M: Tensor) -> Tensor:
        """Feed one token per row to the bare language model; the logits of the next. [M, V]."""
        self.attention_MS = torch.cat([self.attention_MS, self.attention_MS.new_ones(len(token_M), 1)], dim=1)
        output = model.get_decoder()(
            input_ids=token_M[:, None],
            position_ids=self.position_M.expand(3, -1)[..., None],
            attention_mask=self.attention_MS[:, None, None, :],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position_M = self.position_M + 1
        return model.get_output_embeddings()(output.last_hidden_state[:, -1])
