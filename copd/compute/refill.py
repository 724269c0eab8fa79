"""The decode loop that cards take. The host looks once in a block of tokens; places of finished rows are refilled.

Between two looks every running row is computed at every step, whatever it samples; what stands after an end token or a
stop string is dropped at the look. The cache then loses the rows that left, gains those that join, and grows by a
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from copd.compute.batching import micro_batches, read_tokens
from copd.compute.decode import Decoded, ModelStep, PlacedLayer, next_tokens
from copd.compute.encode import Encoder, Responses
from copd.compute.forward import Forward, in_float32
from copd.compute.queue import BLOCK, Queue
from copd.compute.stops import Stops
from copd.maths.cut import WHOLE, Cut
from copd.types import Problem


def refills(device: torch.device) -> bool:
    """Whether sampling on this device takes this loop. A CPU takes that of `copd.compute.decode`."""
    return device.type == "cuda"


class Samples(Protocol):
    """What this loop needs of a policy: encoder and model, end tokens and vocabulary mask, and two token budgets.

    Prompts that are prefilled together have at most `micro_batch_tokens`, the cache has at most `cache_tokens`.
    """

    encoder: Encoder
    forward: Forward
    device: torch.device
    end_ids: Tensor
    banned_V: Tensor
    micro_batch_tokens: int

    @property
    def cache_tokens(self) -> int: ...


@dataclass(frozen=True)
class Request:
    """The rows to sample: at most `max_new_tokens` tokens each, as answers to problems of any kinds.

    `uniform_NT` has one number in [0, 1) for each row and position, on the CPU. None = greedy.
    Sampled tokens are drawn from what `cut` leaves of the distribution. A row also ends with a stop string.
    """

    problems: Sequence[Problem]
    prompt_of_N: Sequence[int]
    uniform_NT: Tensor | None
    max_new_tokens: int
    temperature: float
    cut: Cut = WHOLE
    stops: Stops | None = None


@torch.no_grad()
def decode_refilled(policy: Samples, asked: Request, block: int = BLOCK) -> Decoded:
    """Continue each row until an end token or the limit, with a cache of at most as many tokens as the policy's budget.

    The answers are those of `copd.compute.decode.decode` to the same numbers, up to rounding. They are on the CPU.
    """
    prompt_tokens_P = policy.encoder.lengths(asked.problems)
    queue = Queue([prompt_tokens_P[p] for p in asked.prompt_of_N], policy.cache_tokens, block)
    told = _Told(len(asked.prompt_of_N), asked.max_new_tokens, policy.end_ids.tolist(), asked.stops)
    most_tokens = len(asked.prompt_of_N) * (max(prompt_tokens_P) + asked.max_new_tokens + block)
    running = _Running(policy.forward, min(policy.cache_tokens, most_tokens))
    while True:
        stay, joined = queue.change(told.done)
        if not queue.running:
            return told.collected(queue.made_N)
        groups = _groups(policy, asked, joined, queue)
        queue.running[len(stay) :] = [n for group in groups for n in group]
        running.keep(stay, [queue.tokens(n) for n in queue.running], block)
        for group in groups:
            running.join(_prefilled(policy, asked, group, queue, told))
        left_R = [asked.max_new_tokens - queue.made_N[n] for n in queue.running]
        steps = min(block, max(left_R))
        uniform_RT = _uniform(asked.uniform_NT, queue, steps, policy.device)
        go_on = max(left_R) > steps
        sampled_2RT = running.sample(steps, go_on, uniform_RT, policy.banned_V, asked)
        told.take(queue, sampled_2RT.cpu().numpy(), left_R)


def _uniform(uniform_NT: Tensor | None, queue: Queue, steps: int, device: torch.device) -> Tensor | None:
    """The numbers of the next tokens of running rows. What is after a row's last position is never used. [R, steps]."""
    if uniform_NT is None:
        return None
    row_R, made_R = torch.tensor(queue.running), torch.tensor([queue.made_N[n] for n in queue.running])
    position_RT = (made_R[:, None] + torch.arange(steps)).clamp_(max=uniform_NT.shape[1] - 1)
    return uniform_NT[row_R[:, None], position_RT].to(device, non_blocking=True)


class _Told:
    """Sampled tokens and their log-probs, as the host has been told them."""

    def __init__(self, rows: int, columns: int, end_ids: Sequence[int], stops: Stops | None) -> None:
        self.done: set[int] = set()
        self._ends, self._stops = end_ids, stops
        self._tokens_NT = np.empty((rows, columns), dtype=np.int64)
        self._logp_NT = np.empty((rows, columns), dtype=np.float32)
        self._finished_N = np.zeros(rows, dtype=bool)

    def take(self, queue: Queue, block_2RT: np.ndarray[Any, Any], left_R: Sequence[int]) -> None:
        """Take a block of each running row up to its end or limit; raise `made_N`; say which rows are done."""
        token_RT, logp_RT = block_2RT[0].astype(np.int64), block_2RT[1]
        end_RT = np.isin(token_RT, self._ends)
        first_end_R = np.where(end_RT.any(axis=1), end_RT.argmax(axis=1), token_RT.shape[1])
        self.done = set()
        for r, n in enumerate(queue.running):
            made, count = queue.made_N[n], min(int(first_end_R[r]) + 1, left_R[r], token_RT.shape[1])
            self._tokens_NT[n, made : made + count] = token_RT[r, :count]
            self._logp_NT[n, made : made + count] = logp_RT[r, :count]
            self._finished_N[n] = first_end_R[r] < count
            said = self._tokens_NT[n, : made + count].tolist() if self._stops else []
            if self._stops and (last := self._stops.first(said, made)) is not None:
                count, self._finished_N[n] = last + 1 - made, True
            queue.made_N[n] = made + count
            if self._finished_N[n] or count == left_R[r]:
                self.done.add(n)

    def tokens(self, row: int, made: int) -> Tensor:
        """What a row has sampled so far. [made]."""
        return torch.from_numpy(self._tokens_NT[row, :made])

    def collected(self, made_N: Sequence[int]) -> Decoded:
        """All rows, 0 where a row has no token."""
        longest = max(made_N)
        mask_NT = np.arange(longest) < np.array(made_N)[:, None]
        tokens_NT, logp_NT = (
            np.where(mask_NT, part[:, :longest], part.dtype.type(0)) for part in (self._tokens_NT, self._logp_NT)
        )
        return Decoded(*map(torch.from_numpy, (tokens_NT, mask_NT, logp_NT, self._finished_N)))


def _groups(policy: Samples, asked: Request, joined: Sequence[int], queue: Queue) -> list[list[int]]:
    """The rows that join, as they are prefilled one group after the other; the encoder expects their prompts.

    A row that has tokens is a group. The others are prefilled with those to prompts of the same kind, as many at a time
    as have room in a micro-batch.
    """
    begun = [[n] for n in joined if queue.made_N[n]]
    rows_of: dict[int, list[int]] = {}
    for n in joined:
        if not queue.made_N[n]:
            rows_of.setdefault(asked.prompt_of_N[n], []).append(n)
    fresh = [asked.problems[p] for p in rows_of]
    together = micro_batches(
        range(len(fresh)),
        range(len(fresh)),
        [0] * len(fresh),
        kind_P=[problem.kind for problem in fresh],
        prompt_length_P=policy.encoder.lengths(fresh),
        token_budget=policy.micro_batch_tokens,
        held=read_tokens,
    )
    rows_P = list(rows_of.values())
    groups = [*begun, *([n for p in batch.numpy() for n in rows_P[p]] for batch in together)]
    policy.encoder.expect([asked.problems[p] for p in _prompts(asked, group)] for group in groups)
    return groups


def _prompts(asked: Request, rows: Sequence[int]) -> list[int]:
    """The prompts of rows, each once."""
    return list(dict.fromkeys(asked.prompt_of_N[n] for n in rows))


class _Prefilled(NamedTuple):
    """What J rows begin with.

    parts              keys and values of each layer after some texts [texts, heads, S, D], left padded
    text_J             the text of each row
    logits_JV          of the next token of each row
    position_J         of that token
    last_position_J    of the last token that the row may have
    """

    parts: list[Tensor]
    text_J: Tensor
    logits_JV: Tensor
    position_J: Tensor
    last_position_J: Tensor


def _prefilled(policy: Samples, asked: Request, rows: Sequence[int], queue: Queue, told: _Told) -> _Prefilled:
    """Prefill the prompts of rows, each once, and the tokens of a row that has some."""
    chosen, made = _prompts(asked, rows), queue.made_N[rows[0]]
    texts = policy.encoder.encode([asked.problems[p] for p in chosen], policy.device)
    if made:
        tokens_1T = told.tokens(rows[0], made)[None].to(policy.device)
        response = Responses(tokens_1T, torch.ones_like(tokens_1T, dtype=torch.bool), tokens_1T.new_zeros(1), texts)
        texts = texts.with_responses(response)
    cache, logits_PV = policy.forward.prefill(texts)
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    text_J = torch.tensor([chosen.index(asked.prompt_of_N[n]) for n in rows]).to(policy.device, non_blocking=True)
    position_J = texts.next_position_P[text_J]
    return _Prefilled(parts, text_J, logits_PV[text_J], position_J, position_J + asked.max_new_tokens - made - 1)


class _Running:
    """The running rows on the device, each at its own place: their cache, next logits and positions.

    The tokens of all rows end in the same column of the cache, so that one column is next for all.
    """

    def __init__(self, forward: Forward, cache_tokens: int) -> None:
        self._forward = forward
        self._head = in_float32(forward.model.get_output_embeddings())
        self._cache = RowCache(cache_tokens)
        self._states: tuple[Tensor, ...] = ()

    def keep(self, stay: list[int], tokens_R: list[int], block: int) -> None:
        """Keep the rows at the places `stay`, with room for further rows and for `block` tokens.

        `tokens_R` counts the tokens of each row, further ones included.
        """
        self._tokens_R, self._columns = tokens_R, max(tokens_R) + block
        self._cache.begin(len(tokens_R), max(tokens_R), self._columns)
        if not stay:
            self._states = ()
            return
        stay_S = torch.tensor(stay).to(self._states[0].device, non_blocking=True)
        self._states = tuple(state.index_select(0, stay_S) for state in self._states)
        self._cache.put(self._cache.filled(), stay_S)

    def join(self, prefilled: _Prefilled) -> None:
        """Put rows behind those that are there."""
        parts, text_J, *states = prefilled
        self._cache.put(parts, text_J)
        self._states = tuple(map(torch.cat, zip(self._states, states, strict=True))) if self._states else tuple(states)

    def sample(self, steps: int, go_on: bool, uniform_RT: Tensor | None, banned_V: Tensor, asked: Request) -> Tensor:
        """The next tokens of all rows and their log-probs, in one tensor for one transfer. [2, R, steps] float64.

        If rows go on afterwards, the last tokens are put into the cache too. A row past its limit stays at its last
        position, since a model may have no further ones.
        """
        (logits_RV, position_R, last_position_R), self._states = self._states, ()
        layers = self._cache.layers()
        step = ModelStep(self._forward.model, self._forward.family, layers)
        column_C = torch.arange(self._columns, device=banned_V.device)
        tokens_R = torch.tensor(self._tokens_R).to(banned_V.device, non_blocking=True)
        sees_RC = column_C >= (layers[0].length - tokens_R)[:, None]
        token_TR, logp_TR = [], []
        for t in range(steps):
            uniform_R = None if uniform_RT is None else uniform_RT[:, t]
            token_R, logp_R = next_tokens(logits_RV, uniform_R, banned_V, asked.temperature, asked.cut)
            token_TR.append(token_R)
            logp_TR.append(logp_R)
            if go_on or t + 1 < steps:
                at_R = torch.minimum(position_R, last_position_R)
                hidden_RD = step(token_R, at_R, sees_RC[:, : layers[0].length + 1])
                del logits_RV  # so that there are never those of two tokens at once
                logits_RV = self._head(hidden_RD)
                position_R = position_R + 1
        self._states = logits_RV, position_R, last_position_R
        return torch.stack([torch.stack(part, dim=1).double() for part in (token_TR, logp_TR)])


class RowCache:
    """A cache whose memory keeps its size while rows come and go, so that a card's memory is not scattered.

    Each part, the keys or the values of a layer, has a buffer with room for `cache_tokens` tokens, or for one row that
    is longer. One more buffer is to spare: a part is arranged anew in it, and the part's old buffer is the next to
    spare.
    """

    def __init__(self, cache_tokens: int) -> None:
        self._cache_tokens = cache_tokens
        self._layers: list[PlacedLayer] = []
        self.buffers: list[Tensor] = []

    def begin(self, rows: int, width: int, columns: int) -> None:
        """Arrange anew: room for so many rows and columns, with the tokens of each row to end at column `width`."""
        self._rows, self._width, self._columns = rows, width, columns
        self._rooms: list[Tensor] = []
        self._used = 0

    def filled(self) -> list[Tensor]:
        """The parts as they were arranged before, with what was appended since. [rows, heads, S, D] each."""
        return [part for layer in self._layers for part in layer.filled()]

    def put(self, parts: Sequence[Tensor], text_J: Tensor) -> None:
        """Put the texts `text_J` of `parts`, [texts, heads, S, D] each, behind the rows that are there."""
        used, self._used = self._used, self._used + len(text_J)
        for i, part in enumerate(parts):
            if not used:
                self._rooms.append(self._room(i, len(parts), part))
            here, kept = self._rooms[i][used : self._used], min(self._width, part.shape[2])
            here[:, :, : self._width - kept] = 0  # nothing attends to it, but what is not a number would spread
            here[:, :, self._width - kept : self._width] = part[:, :, part.shape[2] - kept :].index_select(0, text_J)

    def layers(self) -> list[PlacedLayer]:
        """The layers, to which tokens may be appended."""
        pairs = zip(self._rooms[::2], self._rooms[1::2], strict=True)
        self._layers = [PlacedLayer(keys, values, used=self._rows, length=self._width) for keys, values in pairs]
        return self._layers

    def _room(self, i: int, parts: int, like: Tensor) -> Tensor:
        """A room for part `i` in the buffer to spare, which is the part's from now on."""
        self.buffers = self.buffers or [like.new_empty(0)] * (parts + 1)
        _, heads, _, depth = like.shape
        numbers = self._rows * heads * self._columns * depth
        if len(self.buffers[-1]) < numbers:
            self.buffers[-1] = like.new_empty(max(numbers, self._cache_tokens * heads * depth))
        self.buffers[i], self.buffers[-1] = self.buffers[-1], self.buffers[i]
        return self.buffers[i][:numbers].view(self._rows, heads, self._columns, depth)
