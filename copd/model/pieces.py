"""Responses as text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_CHARACTER = 4
"""Most tokens of a byte-level vocabulary in one character of UTF-8."""


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; special tokens give their names. Joined, the pieces are the text of the whole.

    If a character is spread over several tokens, its last token has the whole character and the others have empty text.
    Some tokenizers drop the space at the start of a text. So tokens are decoded behind those of the piece before them.
    """

    def text_of(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    pieces: list[str] = []
    before: list[int] = []
    pending: list[int] = []
    known, text = 0, ""
    for token in ids:
        pending.append(token)
        text = text_of(before + pending)[known:]
        if text.endswith("\ufffd") and len(pending) < LONGEST_CHARACTER:
            pieces.append("")
        else:
            pieces.append(text)
            before, pending = pending, []
            known = len(text_of(before))
    if pending:
        pieces[-1] = text
    return pieces
