"""Responses as text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_CHARACTER = 4
"""Most tokens of a byte-level vocabulary that one character of UTF-8 can take."""


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, special tokens as their names; joined, the pieces are the text of the whole.

    Where a character is spread over several tokens its last token has all of it and those before have the empty text.
    """
    pieces, pending = [], []
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(pending) < LONGEST_CHARACTER:
            pieces.append("")
        else:
            pieces.append(text)
            pending = []
    if pending:
        pieces[-1] = tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return pieces
