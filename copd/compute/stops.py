"""Stop strings: the token that completes one of them is the last of a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Stops:
    """Finds stop strings in the text of a response; special tokens are part of the text under their names.

    A string may begin and end anywhere in a token. What the token that completes it holds beyond it stays too.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self._tokenizer, self._strings = tokenizer, strings
        self._most_tokens = max(len(string.encode()) for string in strings)

    def first(self, ids: Sequence[int], start: int) -> int | None:
        """The place, from `start` on, of the first token that completes a string; None if no token does.

        No token before `start` completes one. A token has at least a byte of the text, so that only the last tokens
        before `start` are looked at, as many as the longest string has bytes.
        """
        begin = max(0, start - self._most_tokens)
        if not self._is_in(ids[begin:]):
            return None
        return next(place for place in range(start, len(ids)) if self._is_in(ids[begin : place + 1]))

    def _is_in(self, ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(string in text for string in self._strings)
