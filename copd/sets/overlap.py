"""Training rows that repeat a test problem: texts that share 13 words in a row, or short texts that are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

WORD = re.compile(r"[^\W_]+")
LENGTH = 13
"""Words in a row that only a copy shares; the length of Brown et al., 2020 (arXiv 2005.14165, appendix C)."""


class Overlap:
    """The word sequences of some texts, in which other texts are looked up.

    Case does not count, nor does what is no letter or digit. In a text of fewer words than `LENGTH` all signs count.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()

    def add(self, text: str) -> None:
        """Remember a text."""
        self._known.update(_sequences(text))

    def has_part_of(self, text: str) -> bool:
        """Whether the text shares a sequence with one that was added."""
        return bool(self._known) and any(each in self._known for each in _sequences(text))


def spaced(text: str) -> str:
    """A text in lower case with single spaces. Texts that differ in nothing else are the same question."""
    return " ".join(text.lower().split())


def _sequences(text: str) -> Iterator[int]:
    words = WORD.findall(text.lower())
    if len(words) < LENGTH:
        yield hash(spaced(text))
    for at in range(len(words) - LENGTH + 1):
        yield hash(tuple(words[at : at + LENGTH]))
