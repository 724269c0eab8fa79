"""The index of rows: their places in files, their split by hash, and repeated ids."""

from __future__ import annotations

import hashlib
import posixpath
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from copd.rows.formats import Row
from copd.types import Split


@dataclass(frozen=True)
class RowSet:
    """Some rows of some files.

    [n]: the number of each row's file, its line, its position in the file, and its key (`key_of`).
    """

    file_n: np.ndarray
    line_n: np.ndarray
    position_n: np.ndarray
    key_n: np.ndarray

    def __len__(self) -> int:
        return len(self.file_n)

    def chosen(self, which_n: np.ndarray) -> RowSet:
        """The rows where `which_n` is true."""
        return RowSet(self.file_n[which_n], self.line_n[which_n], self.position_n[which_n], self.key_n[which_n])


class RowIndex:
    """Collects sound rows: 40 bytes for each while collecting, 32 in the resulting set."""

    def __init__(self) -> None:
        self._file, self._line, self._position = array("q"), array("q"), array("q")
        self._key, self._id = array("Q"), array("Q")

    def add(self, file: int, line: int, position: int, row: Row) -> None:
        self._file.append(file)
        self._line.append(line)
        self._position.append(position)
        self._key.append(key_of(row))
        self._id.append(0 if row.id is None else _hash(f"{file}/{row.id}".encode()) or 1)

    def repeated(self) -> Iterator[tuple[int, int]]:
        """Pairs of places in the index, in order: a row, and the earlier row of its file with the same id."""
        id_n = np.array(self._id)
        order = np.argsort(id_n, kind="stable")
        order = order[id_n[order] != 0]
        _, start, count = np.unique(id_n[order], return_index=True, return_counts=True)
        pairs = [
            (int(again), int(order[s]))
            for s, c in zip(start[count > 1], count[count > 1], strict=True)
            for again in order[s + 1 : s + c]
        ]
        yield from sorted(pairs)

    def place(self, n: int) -> tuple[int, int]:
        """File number and line of the n-th row."""
        return self._file[n], self._line[n]

    def rows(self, without: Sequence[int] = ()) -> RowSet:
        """All rows but those at the given places."""
        columns = [np.array(c) for c in (self._file, self._line, self._position, self._key)]
        return RowSet(*(np.delete(column, without) if len(without) else column for column in columns))


def key_of(row: Row) -> int:
    """64 bits that assign a row to a split: a hash of the list of its media if it has some, else of its text.

    Media are told apart by the row's own paths or bytes; nothing is opened. Case and white space of the text do not
    count, nor does what a recipe adds to it.
    """
    if row.kind == "text":
        return _hash(" ".join(row.question.split()).casefold().encode())
    contents = (r if isinstance(r, bytes) else posixpath.normpath(r).encode(errors="replace") for r in row.references)
    return _hash(b"\0".join(contents))


def cut(rows: RowSet, shares: Mapping[Split, float]) -> dict[Split, RowSet]:
    """The training rows, cut by hash into train and the splits of `shares`. Each split keeps the order of the rows."""
    at_n = rows.key_n / 2.0**64
    sets, start, rest_n = {}, 0.0, np.ones(len(rows), bool)
    for split, share in shares.items():
        inside_n = (at_n >= start) & (at_n < start + share)
        sets[split] = rows.chosen(inside_n)
        rest_n &= ~inside_n
        start += share
    return {Split.TRAIN: rows.chosen(rest_n), **sets}


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
