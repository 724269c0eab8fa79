"""The decode loop. Rows of a prompt that have sampled the same tokens are computed once; finished rows leave.

A prefix is a prompt and the tokens sampled after it. At first there is one prefix for each prompt; there are never more
prefixes than rows. Each prefix has a place in a cache with room for all, or is computed anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from copd.compute.encode import Prompts
from copd.compute.family import Family
from copd.compute.stops import Stops
from copd.maths.cut import WHOLE, Cut, remaining
from copd.maths.logprobs import draw, masked_log_softmax

DRAWN_AT_ONCE = 1 << 25
"""128 MiB of logits in float32. Drawing takes several times as much beside them, most of it in float64."""


class Decoded(NamedTuple):
    """Sampled tokens, their mask, their log-probs, and which rows ended by themselves; on the model's device."""

    tokens_NT: Tensor
    mask_NT: Tensor
    logp_NT: Tensor
    finished_N: Tensor


class Prefixes(Protocol):
    """The prefixes that unfinished rows continue, each at its own place."""

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the prefixes by M new ones: the prefix at `parent_M[m]`, ascending in m, followed by `token_M[m]`.

        Returns the place of each new prefix [M], and the logits of the tokens after them, by place. [M, V].
        """
        ...


def distinct_prefixes(prefix_R: Tensor, token_R: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct prefixes of rows: the parent and last token of each [M], and the prefix of each row. [R]."""
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
    cut: Cut = WHOLE,
    stops: Stops | None = None,
) -> Decoded:
    """Continue each row until an end token, one that completes a stop string, or `max_new_tokens`.

    At the start `prefixes` holds the prompts alone, and `logits_MV` the logits after them. `uniform_NT` holds one
    number in [0, 1) per row and position (None = greedy), so that a response does not depend on which other rows are
    unfinished. Sampled tokens are drawn from what `cut` leaves of the distribution, and so are their log-probs.
    """
    rows, device, vocabulary = len(prompt_of_N), logits_MV.device, logits_MV.shape[-1]
    steps: list[tuple[Tensor, ...]] = []
    said_N: list[list[int]] = [[] for _ in range(rows)]
    ends_V = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    ends_V[end_ids] = True
    row_R, prefix_R = torch.arange(rows, device=device), prompt_of_N
    for t in range(max_new_tokens):
        step_logp_MV = log_probs(logits_MV, banned_V, temperature, cut, greedy=uniform_NT is None)
        token_R = pick(step_logp_MV, prefix_R, None if uniform_NT is None else uniform_NT[row_R, t])
        ended_R = ends_V.index_select(0, token_R)
        if stops is not None:
            ended_R |= _stopped(stops, said_N, row_R, token_R)
        steps.append((row_R, token_R, step_logp_MV[prefix_R, token_R].float(), ended_R))
        left_L = ended_R.logical_not().nonzero()[:, 0]
        if t + 1 == max_new_tokens or not len(left_L):
            break
        row_R, prefix_R, token_R = (each.index_select(0, left_L) for each in (row_R, prefix_R, token_R))
        parent_M, token_M, prefix_R = distinct_prefixes(prefix_R, token_R, vocabulary)
        place_M, logits_MV = prefixes.extend(parent_M, token_M)
        prefix_R = place_M.index_select(0, prefix_R)
    return _collected(steps, rows)


def _stopped(stops: Stops, said_N: Sequence[list[int]], row_R: Tensor, token_R: Tensor) -> Tensor:
    """Whether the next token of each unfinished row, which is added to what it has said, completes a stop string."""
    found = []
    for n, token in zip(row_R.tolist(), token_R.tolist(), strict=True):
        said_N[n].append(token)
        found.append(stops.first(said_N[n], len(said_N[n]) - 1) is not None)
    return torch.tensor(found, device=token_R.device)


def _collected(steps: Sequence[tuple[Tensor, ...]], rows: int) -> Decoded:
    """Collect the steps into tensors. A step holds the unfinished rows, and their tokens, log-probs and ends."""
    row_S, token_S, logp_S, ended_S = (torch.cat(each) for each in zip(*steps, strict=True))
    counts_T = torch.tensor([len(step[0]) for step in steps], device=row_S.device)
    at = row_S, torch.arange(len(steps), device=row_S.device).repeat_interleave(counts_T)
    tokens_NT = token_S.new_zeros(rows, len(steps)).index_put_(at, token_S)
    mask_NT = torch.zeros_like(tokens_NT, dtype=torch.bool).index_put_(at, torch.ones_like(ended_S))
    logp_NT = logp_S.new_zeros(rows, len(steps)).index_put_(at, logp_S)
    finished_N = ended_S.new_zeros(rows).index_fill_(0, row_S[ended_S], value=True)
    return Decoded(tokens_NT, mask_NT, logp_NT, finished_N)


def log_probs(logits_MV: Tensor, banned_V: Tensor, temperature: float, cut: Cut, *, greedy: bool) -> Tensor:
    """The log-probs that tokens are drawn from, cut unless `greedy`: then nothing is drawn. [M, V]."""
    logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
    return logp_MV if greedy else remaining(logp_MV, cut)


def pick(logp_MV: Tensor, prefix_R: Tensor, uniform_R: Tensor | None) -> Tensor:
    """The next token of each row after its prefix: sampled by its number, or the likeliest if there is none. [R]."""
    return logp_MV.argmax(-1)[prefix_R] if uniform_R is None else draw(logp_MV, prefix_R, uniform_R)


def next_tokens(
    logits_RV: Tensor, uniform_R: Tensor | None, banned_V: Tensor, temperature: float, cut: Cut
) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob, in float32, where every row has logits of its own. [R] each.

    A few rows at a time, at most `DRAWN_AT_ONCE` logits, so that their copies take little memory beside the logits.
    """
    found = []
    for logits_MV, uniform_M in _few_at_a_time(logits_RV, uniform_R):
        place_M = torch.arange(len(logits_MV), device=logits_MV.device)
        logp_MV = log_probs(logits_MV, banned_V, temperature, cut, greedy=uniform_M is None)
        token_M = pick(logp_MV, place_M, uniform_M)
        found.append((token_M, logp_MV[place_M, token_M].float()))
    token_R, logp_R = (torch.cat(each) for each in zip(*found, strict=True))
    return token_R, logp_R


def _few_at_a_time(logits_RV: Tensor, uniform_R: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    rows = max(1, DRAWN_AT_ONCE // logits_RV.shape[-1])
    for first in range(0, len(logits_RV), rows):
        few = slice(first, first + rows)
        yield logits_RV[few], None if uniform_R is None else uniform_R[few]


class Step(Protocol):
    """Runs the language model on one more token after each cached prefix."""

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy cached prefixes from place to place."""
        ...

    def __call__(self, ids_M: Tensor, position_M: Tensor, sees_MS: Tensor) -> Tensor:
        """Hidden states after the tokens, which are appended to the prefixes at places 0 to M - 1. [M, D].

        `sees_MS` is True on those of a prefix's S tokens that its new token, the last of them, attends to.
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
    """Prefixes that are computed anew at every step, for a model whose cache cannot be repeated.

    Slow, but always right.
    """

    def __init__(self, logits_of: Any, prompts: Prompts) -> None:
        self._logits_of = logits_of
        self._prompts = prompts

    def extend(self, parent_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
        self._prompts = self._prompts.rows(parent_M).append(token_M)
        return torch.arange(len(parent_M), device=parent_M.device), self._logits_of(self._prompts)


def settle(parent_M: Tensor) -> tuple[Tensor, Tensor]:
    """Places 0 to M - 1 for prefixes with parents at `parent_M`, ascending, and a mask of those that move. [M].

    The first child of a parent stays at the parent's place if that is among the first M. All others fill the gaps.
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
    """A step through transformers' own language model."""

    def __init__(self, model: Any, family: Family, layers: Sequence[PlacedLayer]) -> None:
        self._model, self._family, self._layers = model, family, layers
        self._cache = Cache(layers=list(layers))

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
    """One layer of a cache that has room for further prefixes and tokens: keys and values [room, heads, columns, D].

    It holds `used` prefixes of `length` tokens.
    """

    def __init__(self, keys: Tensor, values: Tensor, used: int, length: int) -> None:
        super().__init__()
        self._keys, self._values, self.used, self.length = keys, values, used, length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append a token to each prefix in use."""
        now = slice(self.length, self.length + key_states.shape[2])
        self.length = now.stop
        self._keys[: self.used, :, now] = key_states
        self._values[: self.used, :, now] = value_states
        return self.filled()

    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefixes in use. [used, heads, length, D]."""
        return self._keys[: self.used, :, : self.length], self._values[: self.used, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy prefixes from place to place."""
        for part in (self._keys, self._values):
            part[target, :, : self.length] = part[source, :, : self.length]


def placed_layers(prefill: Cache, room: int, columns: int) -> list[PlacedLayer]:
    """The layers of a prefill with room for so many prefixes and columns from the start."""
    placed = []
    for layer in prefill.layers:
        keys, values = (_with_room(part, room, columns) for part in (layer.keys, layer.values))
        placed.append(PlacedLayer(keys, values, used=len(layer.keys), length=layer.keys.shape[2]))
    return placed


def _with_room(states: Tensor, room: int, length: int) -> Tensor:
    """Cached states [P, heads, S, D] in the first rows and columns of a larger tensor [room, heads, length, D]."""
    larger = states.new_empty(room, states.shape[1], length, states.shape[3])
    larger[: len(states), :, : states.shape[2]] = states
    return larger
