"""The decode loop: rows of one prompt that have drawn the same tokens are computed once; finished ones leave.

A prefix is a prompt and the tokens drawn after it. There are as many as prompts at first, and never more than rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from copd.maths.logprobs import draw, masked_log_softmax
from copd.model.encode import Prompts
from copd.model.family import TextOnly


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


def select_rows(cache: DynamicCache, rows_N: Tensor) -> DynamicCache:
    """A cache whose row n is row `rows_N[n]` of `cache`; gradients flow back into `cache`."""
    return DynamicCache(
        [(layer.keys.index_select(0, rows_N), layer.values.index_select(0, rows_N)) for layer in cache.layers]
    )


def settle(parent_M: Tensor) -> tuple[Tensor, Tensor]:
    """Places 0 to M - 1 for prefixes whose parents stand at `parent_M`, ascending, and which of them are moved. [M].

    The first child of a parent stays at its place, if that is among the first M; all others fill the gaps.
    """
    first_M = torch.ones_like(parent_M, dtype=torch.bool)
    first_M[1:] = parent_M[1:] != parent_M[:-1]
    moved_M = ~first_M | (parent_M >= len(parent_M))
    gap_M = torch.ones_like(moved_M)
    gap_M[parent_M[~moved_M]] = False
    place_M = parent_M.clone()
    place_M[moved_M] = gap_M.nonzero()[:, 0]
    return place_M, moved_M


class PlacedLayer(DynamicLayer):
    """One layer of a cache with room for all rows and tokens from the start: `used` prefixes of `length` tokens."""

    def __init__(self, prefill: Any, room: int, length: int) -> None:
        super().__init__()
        self.used, self.length = len(prefill.keys), prefill.keys.shape[2]
        self._keys, self._values = (_with_room(part, room, length) for part in (prefill.keys, prefill.values))
        self.dtype, self.device, self.is_initialized = self._keys.dtype, self._keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append a token to each prefix in use."""
        now = slice(self.length, self.length + key_states.shape[2])
        self.length = now.stop
        self._keys[: self.used, :, now] = key_states
        self._values[: self.used, :, now] = value_states
        return self._keys[: self.used, :, : self.length], self._values[: self.used, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy prefixes from place to place."""
        for part in (self._keys, self._values):
            part[target, :, : self.length] = part[source, :, : self.length]


def _with_room(states: Tensor, room: int, length: int) -> Tensor:
    """Cached states [P, heads, S, D] in the first rows and columns of a larger tensor [room, heads, length, D]."""
    larger = states.new_empty(room, states.shape[1], length, states.shape[3])
    larger[: len(states), :, : states.shape[2]] = states
    return larger


class CachedPrefixes:
    """Prefixes on a prefilled cache; each step runs one token per prefix through the bare language model."""

    def __init__(
        self, model: Any, family: TextOnly, prompts: Prompts, prefill: Cache, room: int, max_new_tokens: int, head: Any
    ) -> None:
        self._model, self._family, self._head = model, family, head
        count, length = prompts.mask_PS.shape
        room = max(room, count)
        self._layers = [PlacedLayer(layer, room, length + max_new_tokens) for layer in prefill.layers]
        self._cache = Cache(layers=list(self._layers))
        self._mask = prompts.mask_PS.new_ones(room, length + max_new_tokens)
        self._mask[:count, :length] = prompts.mask_PS
        self._position = prompts.next_position_P.new_zeros(room)
        self._position[:count] = prompts.next_position_P
        self._prompt_length = length

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        place_M, moved_M = settle(parent_M)
        count, source, target = len(place_M), parent_M[moved_M], place_M[moved_M]
        for layer in self._layers:
            layer.used = count
        if len(source):
            for layer in self._layers:
                layer.move(source, target)
            for part in (self._mask, self._position):
                part[target] = part[source]
        length = self._layers[0].length + 1
        position_M = self._position[:count] + (length - 1 - self._prompt_length)
        output = self._model.get_decoder()(
            input_ids=torch.empty_like(token_M).scatter_(0, place_M, token_M)[:, None],
            position_ids=self._family.position_ids(position_M.expand(self._family.axes, -1)[..., None]),
            attention_mask=self._family.step_mask(self._mask[:count, :length], self._layers[0].dtype),
            past_key_values=self._cache,
            use_cache=True,
        )
        return place_M, self._head(output.last_hidden_state[:, -1])


class PlainPrefixes:
    """Prefixes computed anew at every step, for a model whose cache cannot be repeated: slow, and always right."""

    def __init__(self, logits_of: Any, prompts: Prompts) -> None:
        self._logits_of = logits_of
        self._prompts = prompts

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        self._prompts = self._prompts.rows(parent_M).append(token_M)
        return torch.arange(len(parent_M), device=parent_M.device), self._logits_of(self._prompts)
