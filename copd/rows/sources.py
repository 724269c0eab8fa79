"""Files of rows, read lazily: JSON lines by byte offset, parquet by row group (`copd.rows.parquet`).

A scan yields every row with its line number (in parquet: row number), counted from 1, and the position at which the row
can be read again. For a row that cannot be read it yields the BadRow that says why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from copd.errors import BadRow, DataError
from copd.rows.answers import number_of
from copd.rows.media import DataRoot

MAX_ROW_BYTES = 2**26
"""A longer line of JSON, or a larger row of parquet, is a bad row."""
NOT_TEXT = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"PAR1": "parquet; name it .parquet",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}
TAR, TAR_AT = (b"ustar\0", b"ustar  \0"), 257
"""A tar archive of text files looks like text, except for these bytes in the header of each member."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Scanned = tuple[int, int, dict[str, Any] | BadRow]
"""Line, position, and the row, or the BadRow in its place."""


Writer = Callable[[Any, Sequence[int]], None]
"""Takes a file and ascending positions in it. Raises DataError for a file whose rows do not fit."""


class RowFile(Protocol):
    """One file of rows. `given` is its name in messages, `root` where paths in its rows start."""

    @property
    def given(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def root(self) -> DataRoot: ...

    @property
    def stamp(self) -> tuple[int, int]: ...

    def scan(self) -> Iterator[Scanned]:
        """All rows in order. Raises DataError if the file as a whole cannot be read."""
        ...

    def read(self, position: int) -> dict[str, Any]:
        """The row at a position that `scan` gave. Raises DataError if the file has changed since."""
        ...

    def first_columns(self) -> set[str]:
        """The columns that tell the format. Raises DataError for a file without rows."""
        ...

    def writer(self, path: Path) -> AbstractContextManager[Writer]:
        """A writer to a new file of this kind. It copies rows of this file and of others like it, unchanged."""
        ...


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change. While they stay the same, positions in the file are valid."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def check_unchanged(file: RowFile) -> None:
    """Raise DataError for a file that has changed since it was opened."""
    check_stamp(file.given, stamp_of(file.path), file.stamp)


def check_stamp(given: str, now: tuple[int, int], first: tuple[int, int]) -> None:
    """Raise DataError, naming the file, if its stamp has changed."""
    if now != first:
        raise DataError(f"{given}: has changed since it was first read; start again")


@dataclass(frozen=True)
class JsonLinesFile:
    """One JSON object per line, in UTF-8. Empty lines are skipped, and so is a byte order mark before a line."""

    given: str
    path: Path
    root: DataRoot
    stamp: tuple[int, int]

    def scan(self) -> Iterator[Scanned]:
        with self.path.open("rb") as file:
            offset = self._start(file.read(512))
            file.seek(offset)
            line = 0
            while text := file.readline(MAX_ROW_BYTES + 1):
                line += 1
                size = len(text)
                if size > MAX_ROW_BYTES:
                    while not text.endswith(b"\n") and (text := file.readline(MAX_ROW_BYTES)):
                        size += len(text)
                    yield line, offset, BadRow(f"a line of {size} bytes; accepted: at most {MAX_ROW_BYTES}")
                elif not text.isspace():
                    yield line, offset, parsed(text)
                offset += size

    def _start(self, head: bytes) -> int:
        """The first byte of the text behind a byte order mark. Raises DataError for a file that is no text in UTF-8."""
        for magic, what in NOT_TEXT.items():
            if head.startswith(magic):
                raise DataError(f"{self.given}: is {what}")
        if head.startswith(TAR, TAR_AT):
            raise DataError(f"{self.given}: is a tar archive; unpack it first")
        if b"\0" in head[:2]:
            raise DataError(f"{self.given}: starts like UTF-16 without a mark; save it as UTF-8")
        return len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0

    def read(self, position: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            check_unchanged(self)
            row = parsed(self.text_at(file, position))
        if isinstance(row, BadRow):
            raise row
        return row

    def text_at(self, file: BinaryIO, position: int) -> bytes:
        """The row at a position of the opened file, as it is written."""
        file.seek(position)
        return file.readline(MAX_ROW_BYTES)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Writer]:
        with path.open("wb") as target:
            yield partial(_copy_lines, target)

    def first_columns(self) -> set[str]:
        why = "no line in it holds a row"
        for line, _, row in self.scan():
            if isinstance(row, dict):
                return set(row)
            if not why.startswith("no row in it"):
                why = f"no row in it is a JSON object; line {line}: {row}"
        raise DataError(f"{self.given}: {why}")


def _copy_lines(target: BinaryIO, file: JsonLinesFile, positions: Sequence[int]) -> None:
    with file.path.open("rb") as source:
        check_unchanged(file)
        for position in positions:
            line = file.text_at(source, position)
            target.write(line if line.endswith(b"\n") else line + b"\n")


def parsed(text: bytes) -> dict[str, Any] | BadRow:
    """The row that a text of JSON spells, or why it is none."""
    try:
        row = DECODER.decode(text.removeprefix(BYTE_ORDER_MARK).strip().decode())
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow(f"not JSON: {error.msg.removesuffix(' at')} at column {error.pos + 1}{_likely_cause(error)}")
    except ValueError as error:
        return BadRow(f"not JSON: {error}"[:120])
    except RecursionError:
        return BadRow("not JSON: nested too deeply")
    if isinstance(row, dict):
        return row
    names = {list: "a list", str: "a text", type(None): "null"}
    return BadRow(f"{names.get(type(row), 'a number or truth value')}; accepted: a JSON object")


def _likely_cause(error: json.JSONDecodeError) -> str:
    """What line ends have to do with a text that is no JSON, or nothing."""
    read = error.doc[: error.pos]
    if error.msg == "Extra data":
        return "; end lines in LF, not in CR alone" if read.endswith("\r") else "; a line is one row"
    return "; a row is one line" if error.doc in ("{", "[") or not error.doc[error.pos :] else ""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"key {next(name for name, count in counts.items() if count > 1)!r} is given twice")
    return found


DECODER = json.JSONDecoder(parse_float=number_of, parse_constant=_no_constant, object_pairs_hook=_once)
