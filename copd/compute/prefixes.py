"""The prefixes of the decode loop: each at a place of a cache with room for all, or computed anew at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from copd.compute.encode import Prompts
from copd.compute.family import TextOnly


class Step(Protocol):
    """One more token after each cached prefix, through the language model."""

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy cached prefixes from place to place."""
        ...

    def __call__(self, ids_M: Tensor, position_M: Tensor, sees_MS: Tensor) -> Tensor:
        """Hidden states after the tokens, which join the prefixes at places 0 to M - 1. [M, D].

        `sees_MS` says which of the S tokens of its prefix, itself the last, a token attends to.
        """
        ...


class CachedPrefixes:
    """Prefixes on a prefilled cache, at most `room` of them; each step runs one token per prefix."""

    def __init__(self, step: Step, prompts: Prompts, room: int, max_new_tokens: int, head: Callable[[Tensor], Tensor]):
        self._step, self._head = step, head
        count, self._length = prompts.mask_PS.shape
        self._mask = prompts.mask_PS.new_ones(room, self._length + max_new_tokens)
        self._mask[:count, : self._length] = prompts.mask_PS
        self._position = prompts.next_position_P.new_zeros(room)
        self._position[:count] = prompts.next_position_P - self._length

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        place_M, moved_M = settle(parent_M)
        count, source, target = len(place_M), parent_M[moved_M], place_M[moved_M]
        if len(source):
            self._step.move(source, target)
            for part in (self._mask, self._position):
                part[target] = part[source]
        ids_M = torch.empty_like(token_M).scatter_(0, place_M, token_M)
        position_M = self._position[:count] + self._length
        self._length += 1
        return place_M, self._head(self._step(ids_M, position_M, self._mask[:count, : self._length]))


class PlainPrefixes:
    """Prefixes computed anew at every step, for a model whose cache cannot be repeated: slow, and always right."""

    def __init__(self, logits_of: Any, prompts: Prompts) -> None:
        self._logits_of = logits_of
        self._prompts = prompts

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        self._prompts = self._prompts.rows(parent_M).append(token_M)
        return torch.arange(len(parent_M), device=parent_M.device), self._logits_of(self._prompts)


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


class ModelStep:
    """A step by the bare language model as transformers has it."""

    def __init__(self, model: Any, family: TextOnly, prefill: Cache, room: int, columns: int) -> None:
        self._model, self._family = model, family
        self._layers = [PlacedLayer(layer, room, columns) for layer in prefill.layers]
        self._cache = Cache(layers=list(self._layers))

    def move(self, source: Tensor, target: Tensor) -> None:
        for layer in self._layers:
            layer.move(source, target)

    def __call__(self, ids_M: Tensor, position_M: Tensor, sees_MS: Tensor) -> Tensor:
        for layer in self._layers:
            layer.used = len(ids_M)
        output = self._model.get_decoder()(
            input_ids=ids_M[:, None],
            position_ids=self._family.position_ids(position_M.expand(self._family.axes, -1)[..., None]),
            attention_mask=self._family.step_mask(sees_MS, self._layers[0].dtype),
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]


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


def select_rows(cache: DynamicCache, rows_N: Tensor) -> DynamicCache:
    """A cache whose row n is row `rows_N[n]` of `cache`; gradients flow back into `cache`."""
    return DynamicCache(
        [(layer.keys.index_select(0, rows_N), layer.values.index_select(0, rows_N)) for layer in cache.layers]
    )
