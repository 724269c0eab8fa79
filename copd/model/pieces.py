"""Responses as text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_CHARACTER = 4
"""Most tokens of a byte-level vocabulary in one character of UTF-8."""


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; special tokens give their names. Joined, the pieces are the text of the whole.

    If a character is spread over several tokens, its last token has the whole character and the others have empty text.
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
