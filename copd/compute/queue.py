"""Which rows run at once, under a budget of cache tokens; no tensors.

A cache is as wide as its longest row, so rows of about one length should run together. The shortest rows come first.
When rows have grown over the budget, the longest of them wait again, and their tokens are prefilled when they go on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

BLOCK = 32
"""The host looks at the tokens every so many, and by so many columns the cache grows."""


class Change(NamedTuple):
    """What changes before the next tokens: places of the rows that stay, and rows that join behind them."""

    stay: list[int]
    joined: list[int]


class Queue:
    """The rows of a sampling call: those that run, in the order of their places, and those that wait.

    `made_N` counts the tokens sampled of each row; it is the caller's to raise. The cache holds each running row in as
    many columns as the longest has tokens, prompt included, and `block` more. That is at most `token_budget` tokens in
    all, unless one row alone exceeds it.
    """

    def __init__(self, prompt_tokens_N: Sequence[int], token_budget: int, block: int = BLOCK) -> None:
        self.made_N = [0] * len(prompt_tokens_N)
        self.running: list[int] = []
        self._prompt_tokens_N, self._budget, self._block = prompt_tokens_N, token_budget, block
        self._waiting = [(tokens, n) for n, tokens in enumerate(prompt_tokens_N)]
        heapify(self._waiting)

    def tokens(self, row: int) -> int:
        """Tokens of a row, prompt included."""
        return self._prompt_tokens_N[row] + self.made_N[row]

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache of the running rows has room for."""
        return self._held(len(self.running), max(map(self.tokens, self.running), default=0))

    def change(self, done: Collection[int]) -> Change:
        """Take out the rows that are done and those that no longer fit, and let others join.

        Nothing runs afterwards if all rows are done.
        """
        place_of = {n: r for r, n in enumerate(self.running)}
        rows = sorted((n for n in self.running if n not in done), key=self.tokens)
        while len(rows) > 1 and self._held(len(rows), self.tokens(rows[-1])) > self._budget:
            longest = rows.pop()
            heappush(self._waiting, (self.tokens(longest), longest))
        joined = self._joined(len(rows), self.tokens(rows[-1]) if rows else 0)
        self.running = rows + joined
        return Change([place_of[n] for n in rows], joined)

    def _joined(self, count: int, longest: int) -> list[int]:
        """Take from the waiting those that join `count` rows, of which the longest has so many tokens."""
        joined: list[int] = []
        while self._waiting:
            count, longest = count + 1, max(longest, self._waiting[0][0])
            if count > 1 and self._held(count, longest) > self._budget:
                break
            joined.append(heappop(self._waiting)[1])
        return joined

    def _held(self, count: int, longest: int) -> int:
        return count * (longest + self._block) if count else 0


def rows_at_once(prompt_tokens_N: Sequence[int], token_budget: int) -> int:
    """How many rows run at once at most. That is how many begin: later the rows that run have more tokens."""
    queue = Queue(prompt_tokens_N, token_budget)
    queue.change(())
    return len(queue.running)
