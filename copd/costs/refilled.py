"""Sampling as cards do it (`copd.compute.refill`): how many rows run at once, and how many bytes they take."""

from __future__ import annotations

from typing import NamedTuple

from copd.compute.decode import DRAWN_AT_ONCE
from copd.compute.queue import BLOCK, rows_at_once
from copd.costs import memory
from copd.costs.equal_rows import EqualRows
from copd.costs.measured import PromptSizes
from copd.costs.memory import WIDE
from copd.costs.shape import Shape

DRAWN = 7
"""Tensors of the size of the logits beside them, in float32, where tokens are drawn: log-probs, those sorted if `top_p`
cuts, and in float64 cumulative probabilities twice."""


class Refilled(NamedTuple):
    """A call of sampling on a card, at its fullest.

    rows         that run at once, most of which when all are short
    long_rows    that run at once when all responses have nearly reached their limit
    cached       tokens that the cache has room for
    prefilled    tokens that are prefilled together
    patches      of the pictures of prompts that are prefilled together
    """

    rows: int
    long_rows: int
    cached: int
    prefilled: int
    patches: int


class Together(NamedTuple):
    """Rows of a batch that are sampled at once: at most, if all reach the limit of tokens, and of how many."""

    most: int
    long: int
    of: int


def refilled(asked: EqualRows, prompts: PromptSizes, response: int, cache_tokens: int, micro_tokens: int) -> Refilled:
    """What a call takes at most: rows by their shortest prompt, tokens by the longest.

    Prompts are prefilled in micro-batches of at most `micro_tokens`, or one by one. A row that had to wait is prefilled
    with all of its tokens.
    """
    whole = prompts.longest + response
    count = min(asked.prompts * asked.rows, cache_tokens // BLOCK + 1)  # further rows wait in any case
    rows, long_rows = (rows_at_once([tokens] * count, cache_tokens) for tokens in (prompts.shortest, whole))
    together = min(asked.prompts, rows, max(1, micro_tokens // prompts.longest))
    return Refilled(
        rows,
        long_rows,
        max(whole + BLOCK, min(cache_tokens, asked.prompts * asked.rows * (whole + BLOCK))),
        max(together * prompts.longest, whole if long_rows < rows else 0),
        together * prompts.patches,
    )


def cache(shape: Shape, call: Refilled, *, half: bool) -> int:
    """The cache of the rows: keys and values of each layer, and room to arrange one of these parts anew."""
    whole = memory.cache(shape, call.cached, half=half)
    return whole + whole // (2 * shape.layers)


def beside_cache(shape: Shape, call: Refilled, *, half: bool) -> int:
    """What sampling adds to the cache: the logits of all rows, and the fullest of three moments.

    Prompts are read, whose keys and values are then put into the cache; rows join, whose logits are put behind those
    that are there; tokens are drawn, a few rows at a time.
    """
    logits = WIDE * call.rows * shape.vocabulary
    read = memory.read_prompts(shape, call.prefilled, call.patches, half=half)
    drawn = WIDE * DRAWN * min(call.rows * shape.vocabulary, max(DRAWN_AT_ONCE, shape.vocabulary))
    return logits + max(memory.cache(shape, call.prefilled, half=half) + max(read, logits), drawn)
