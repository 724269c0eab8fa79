"""Rows as one JSON list of objects, read object by object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from copd.errors import BadRow, DataError
from copd.rows.sources import BYTE_ORDER_MARK, MAX_ROW_BYTES, JsonLinesFile, Scanned, parsed

SPACE = re.compile(rb"[ \t\r\n]*")
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}]', re.DOTALL)
"""A text, in which braces mean nothing, or a brace, or the beginning of a text that is never closed."""


def is_list(head: bytes) -> bool:
    """Whether a file that begins so is one JSON list."""
    return head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")


@dataclass(frozen=True)
class JsonListFile(JsonLinesFile):
    """One JSON list of objects, in UTF-8. Positions are those of the objects' first bytes; copies are JSON lines.

    An object that begins on the line of the one before counts as if it began on the next line. So in a list on one
    line the number of an object is its place in the list, and no two objects have the same.
    """

    def scan(self) -> Iterator[Scanned]:
        with self.path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
            at = _behind_space(text, self._start(text[:512])) + 1
            line, counted, number = 1, 0, 0
            at = _behind_space(text, at)
            while text[at : at + 1] != b"]":
                line, counted = line + text[counted:at].count(b"\n"), at
                if text[at : at + 1] != b"{":
                    found = "not a JSON object" if at < len(text) else "the list is never closed"
                    raise DataError(f"{self.given}:{line}: {found}; accepted: one list of JSON objects, nothing else")
                end = _end(text, at)
                if end is None:
                    raise DataError(f"{self.given}:{line}: a JSON object that is never closed")
                long = end - at > MAX_ROW_BYTES
                reason = f"an object of {end - at} bytes; accepted: at most {MAX_ROW_BYTES}"
                number = max(number + 1, line)
                yield number, at, BadRow(reason) if long else parsed(text[at:end])
                at = _behind_space(text, end)
                if text[at : at + 1] == b",":
                    at = _behind_space(text, at + 1)
                elif text[at : at + 1] != b"]":
                    raise DataError(f"{self.given}:{line}: no comma or end of the list behind this JSON object")
            if _behind_space(text, at + 1) < len(text):
                raise DataError(f"{self.given}:{line}: something follows the list; accepted: one list, nothing else")

    def text_at(self, file: BinaryIO, position: int) -> bytes:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as text:
            written = text[position : _end(text, position)]
        return written.replace(b"\r", b" ").replace(b"\n", b" ")


def _behind_space(text: mmap, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _end(text: mmap, at: int) -> int | None:
    """Where the object that begins here ends; None if it does not."""
    depth = 0
    for token in TOKEN.finditer(text, at):
        if token[0] == b'"':
            return None
        depth += {b"{": 1, b"}": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return None
