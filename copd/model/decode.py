"""The decode loop: a prompt's cache repeated for its rows, finished rows dropped, one uniform number per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from copd.maths.logprobs import draw, masked_log_softmax
from copd.model.encode import Prompts
from copd.model.family import TextOnly


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


class Rows(Protocol):
    """The rows that have not met an end token yet."""

    def keep(self, stay: Tensor) -> None:
        """Drop all rows but `stay`, indices among those alive."""
        ...

    def advance(self, token_M: Tensor) -> Tensor:
        """Append one token to each row; the logits of the next. [M, V]."""
        ...


@torch.no_grad()
def decode(
    alive: Rows,
    logits_MV: Tensor,
    *,
    banned_V: Tensor,
    end_ids: Tensor,
    uniform_NT: Tensor | None,
    max_new_tokens: int,
    temperature: float,
) -> Decoded:
    """Continue each row until an end token or `max_new_tokens`.

    `alive` holds all N rows at first, `logits_MV` their logits after the prompt. `uniform_NT` holds one number in
    [0, 1) per row and position (None = greedy), so that an answer does not depend on which other rows are alive.
    """
    rows, device = len(logits_MV), logits_MV.device
    tokens_NT = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
    mask_NT = torch.zeros_like(tokens_NT, dtype=torch.bool)
    logp_NT = torch.zeros(rows, max_new_tokens, dtype=torch.float32, device=device)
    finished_N = torch.zeros(rows, dtype=torch.bool, device=device)
    rows_M = torch.arange(rows, device=device)
    for t in range(max_new_tokens):
        step_logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
        token_M = pick(step_logp_MV, None if uniform_NT is None else uniform_NT[rows_M, t])
        tokens_NT[rows_M, t] = token_M
        mask_NT[rows_M, t] = True
        logp_NT[rows_M, t] = step_logp_MV.gather(-1, token_M[:, None])[:, 0].float()
        ended_M = torch.isin(token_M, end_ids)
        finished_N[rows_M[ended_M]] = True
        if t + 1 == max_new_tokens or bool(ended_M.all()):
            break
        if bool(ended_M.any()):
            stay = (~ended_M).nonzero()[:, 0]
            alive.keep(stay)
            rows_M, token_M = rows_M[stay], token_M[stay]
        logits_MV = alive.advance(token_M)
    longest = int(mask_NT.sum(-1).max())
    return Decoded(tokens_NT[:, :longest], mask_NT[:, :longest], logp_NT[:, :longest], finished_N)


class CachedRows:
    """Rows on a repeated prefill; each step runs one token per row through the bare language model."""

    def __init__(
        self, model: Any, family: TextOnly, prompts: Prompts, prefill: DynamicCache, prompt_of_N: Tensor
    ) -> None:
        self._model, self._family = model, family
        self._cache = select_rows(prefill, prompt_of_N)
        self._position_M = prompts.next_position_P[prompt_of_N]
        self._attention_MS = prompts.mask_PS[prompt_of_N]

    def keep(self, stay: Tensor) -> None:
        self._cache.batch_select_indices(stay)
        self._position_M, self._attention_MS = self._position_M[stay], self._attention_MS[stay]

    def advance(self, token_M: Tensor) -> Tensor:
        self._attention_MS = torch.cat([self._attention_MS, self._attention_MS.new_ones(len(token_M), 1)], dim=1)
        output = self._model.get_decoder()(
            input_ids=token_M[:, None],
            position_ids=self._family.position_ids(self._position_M.expand(self._family.axes, -1)[..., None]),
            attention_mask=self._family.step_mask(self._attention_MS),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position_M = self._position_M + 1
        return self._model.get_output_embeddings()(output.last_hidden_state[:, -1])


class PlainRows:
    """Rows that are computed anew at every step, for a model whose cache cannot be repeated: slow, and always right."""

    def __init__(self, logits_of: Callable[[Prompts], Tensor], prompts: Prompts) -> None:
        self._logits_of = logits_of
        self._prompts = prompts

    def keep(self, stay: Tensor) -> None:
        self._prompts = self._prompts.rows(stay)

    def advance(self, token_M: Tensor) -> Tensor:
        self._prompts = self._prompts.append(token_M)
        return self._logits_of(self._prompts)
