"""Parquet files within bounds; the only module that calls pyarrow.

A small file can unpack to any size: pages declare their size, and a dictionary lets one long value stand in every row.
So the sizes declared at the file's end are checked before a page is read. Dictionaries stay dictionaries in Arrow. Rows
become Python objects only when their full size is known. A file that declares too little is refused once a batch, or a
row group for random access, has been read; until then it takes as much memory as its pages hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from copd.errors import BadRow, DataError, visible
from copd.rows.media import DataRoot, reason
from copd.rows.sources import MAX_ROW_BYTES, Scanned, Writer, check_unchanged

try:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet
except ImportError:
    raise DataError("parquet files need pyarrow: pip install pyarrow") from None

MAX_UNPACKED_BYTES = 2**31
"""Most bytes of one column of one row group, as the file declares them."""
MAX_VALUES = 2**26
"""Most values of one column of one row group, elements of lists included, as the file declares them."""
BATCH_ROWS, BATCH_BYTES = 4096, 2**24
"""Most rows read at once, and about the most bytes, as declared, that they take together."""
WHOLE_BATCH_BYTES = 2**26
"""A batch of at most this full size is turned into Python objects at once; a larger one row by row."""
KEPT_BYTES = 2**28
"""Most bytes of row groups kept for random access. A larger group is read from its start to the row each time."""
GROWTH = 16
"""Most bytes in memory per declared byte and value. Equal values may be stored in almost no bytes."""

T = TypeVar("T")


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file as a `copd.rows.sources.RowFile`; positions are row numbers from 0."""

    given: str
    path: Path
    root: DataRoot
    stamp: tuple[int, int]

    def scan(self) -> Iterator[Scanned]:
        position = 0
        for batch in self._batches(range(self._open().metadata.num_row_groups)):
            whole = _full_size(batch.columns) <= WHOLE_BATCH_BYTES
            rows = self._unpacked(batch) if whole else (_row(batch.slice(i, 1)) for i in range(len(batch)))
            for row in rows:
                yield position + 1, position, row
                position += 1

    def read(self, position: int) -> dict[str, Any]:
        check_unchanged(self)
        metadata = self._open().metadata
        group, offset = 0, position
        while offset >= metadata.row_group(group).num_rows:
            offset -= metadata.row_group(group).num_rows
            group += 1
        row = _row(self._find(group, offset))
        if isinstance(row, BadRow):
            raise row
        return row

    def first_columns(self) -> set[str]:
        return set(self._open().schema_arrow.names)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Writer]:
        with pyarrow.parquet.ParquetWriter(path, self._schema()) as target:
            yield partial(_copy_rows, target)

    def _schema(self) -> Any:
        """The file's own columns, without dictionaries."""
        return pyarrow.parquet.ParquetFile(self.path, metadata=self._open().metadata).schema_arrow

    def _unpacked(self, batch: Any) -> list[dict[str, Any] | BadRow]:
        """All rows of a batch. Conversion without dictionaries is several times faster."""
        with suppress(pyarrow.ArrowNotImplementedError):
            batch = batch.cast(self._schema())
        with suppress(ValueError, OverflowError):
            return batch.to_pylist()
        return [_row(batch.slice(i, 1)) for i in range(len(batch))]

    def _find(self, group: int, offset: int) -> Any:
        """One row of a row group, in Arrow."""
        size = self._open().metadata.row_group(group).total_byte_size
        if size <= KEPT_BYTES:
            return _kept.get((self, group), size, lambda: self._group(group)).slice(offset, 1)
        batches = self._batches([group])
        while offset >= len(batch := next(batches)):
            offset -= len(batch)
        return batch.slice(offset, 1)

    def _group(self, group: int) -> Any:
        table = _named(self.given, lambda: self._open().read_row_group(group, use_threads=False))
        self._check_rows(group, len(table))
        return self._honest(group, table)

    def _check_rows(self, group: int, found: int) -> None:
        """Raise DataError if a row group does not have as many rows as it declares: later rows would be misplaced."""
        declared = self._open().metadata.row_group(group).num_rows
        if found != declared:
            raise DataError(
                f"{self.given}: row group {group} declares {declared} rows, has {found}; write the file anew"
            )

    def _honest(self, group: int, read: Any) -> Any:
        """The data read of a row group. Raises DataError if it is much larger than the group declares."""
        declared = self._open().metadata.row_group(group)
        values = sum(declared.column(i).num_values for i in range(declared.num_columns))
        if read.nbytes > max(WHOLE_BATCH_BYTES, GROWTH * (declared.total_byte_size + values)):
            raise DataError(
                f"{self.given}: row group {group} declares {declared.total_byte_size} bytes, but {len(read)} rows of "
                f"it unpack to {read.nbytes}; write the file anew"
            )
        return read

    def _batches(self, groups: Iterable[int]) -> Iterator[Any]:
        file = self._open()
        for group in groups:
            declared = file.metadata.row_group(group)
            rows = max(1, min(BATCH_ROWS, BATCH_BYTES * declared.num_rows // max(1, declared.total_byte_size)))
            batches = file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)
            found = 0
            while (batch := _named(self.given, partial(next, batches, None))) is not None:
                found += len(batch)
                yield self._honest(group, batch)
            self._check_rows(group, found)

    def _open(self) -> Any:
        return _opened(self)


class _Kept:
    """Recently read row groups, of at most KEPT_BYTES declared bytes together."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[ParquetFile, int], tuple[int, Any]] = OrderedDict()

    def get(self, key: tuple[ParquetFile, int], size: int, read: Callable[[], Any]) -> Any:
        if key not in self._groups:
            while self._groups and size + sum(kept for kept, _ in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
            self._groups[key] = (size, read())
        self._groups.move_to_end(key)
        return self._groups[key][1]


_kept = _Kept()


@lru_cache(maxsize=64)
def _opened(file: ParquetFile) -> Any:
    """The open file, with dictionaries kept. Raises DataError if it declares sizes beyond bounds."""
    metadata = _named(file.given, lambda: pyarrow.parquet.read_metadata(file.path))
    texts = set()
    for group in range(metadata.num_row_groups):
        for i in range(metadata.num_columns):
            column = metadata.row_group(group).column(i)
            if column.total_uncompressed_size > MAX_UNPACKED_BYTES or column.num_values > MAX_VALUES:
                raise DataError(
                    f"{file.given}: row group {group} of column {visible(column.path_in_schema)[:80]} unpacks to "
                    f"{column.total_uncompressed_size} bytes, {column.num_values} values; accepted: at most "
                    f"{MAX_UNPACKED_BYTES} bytes, {MAX_VALUES} values; write smaller row groups"
                )
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                texts.add(column.path_in_schema)
    opened = _named(
        file.given,
        lambda: pyarrow.parquet.ParquetFile(
            file.path,
            metadata=metadata,
            read_dictionary=sorted(texts),
            buffer_size=2**20,
            pre_buffer=False,
            page_checksum_verification=True,
        ),
    )
    names = opened.schema_arrow.names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{file.given}: column {visible(twice)[:80]!r} is there twice; write the file anew with one")
    return opened


def _copy_rows(target: Any, file: ParquetFile, positions: Sequence[int]) -> None:
    """Write rows in batches of bounded full size. Each batch becomes one row group."""
    check_unchanged(file)
    if not file._schema().equals(target.schema):
        raise DataError(f"{file.given}: its columns differ from those of the file before; treat them one by one")
    first, position_n = 0, np.asarray(positions)
    for batch in file._batches(range(file._open().metadata.num_row_groups)):
        kept_n = np.zeros(len(batch), bool)
        kept_n[position_n[(position_n >= first) & (position_n < first + len(batch))] - first] = True
        first += len(batch)
        rows = batch.filter(pyarrow.array(kept_n))
        at_once = max(1, len(rows)) if _full_size(rows.columns) <= WHOLE_BATCH_BYTES else 1
        for part in (rows.slice(i, at_once) for i in range(0, len(rows), at_once)):
            target.write_table(pyarrow.Table.from_pylist(file._unpacked(part), schema=target.schema))


def _row(single: Any) -> dict[str, Any] | BadRow:
    """The only row of a table or batch."""
    size = _full_size(single.columns)
    if size > MAX_ROW_BYTES:
        return BadRow(f"a row of {size} bytes; accepted: at most {MAX_ROW_BYTES}")
    try:
        return single.to_pylist()[0]
    except UnicodeDecodeError:
        return BadRow("a text in it is not UTF-8")
    except (ValueError, OverflowError) as error:
        return BadRow(f"a value in it cannot be held in Python ({reason(error)})")


def _full_size(arrays: Any) -> int:
    """Bytes of arrays without dictionaries, when every value stands for itself."""
    total = 0
    for array in arrays:
        chunks = array.chunks if isinstance(array, pyarrow.ChunkedArray) else [array]
        for chunk in chunks:
            kind = chunk.type
            if pyarrow.types.is_dictionary(kind):
                total += _full_size_of_texts(chunk)
            elif pyarrow.types.is_struct(kind):
                total += _full_size(chunk.flatten())
            elif pyarrow.types.is_map(kind):
                first, end = chunk.offsets[0].as_py(), chunk.offsets[-1].as_py()
                total += _full_size([chunk.keys.slice(first, end - first), chunk.items.slice(first, end - first)])
            elif pyarrow.types.is_nested(kind):
                total += _full_size([chunk.flatten()])
            else:
                total += chunk.nbytes
    return total


def _full_size_of_texts(chunk: Any) -> int:
    indices, words = chunk.indices.drop_null().cast(pyarrow.int64()), chunk.dictionary
    if not len(indices):
        return 0
    at = np.frombuffer(indices.buffers()[1], np.int64)[indices.offset :][: len(indices)]
    large = pyarrow.types.is_large_string(words.type) or pyarrow.types.is_large_binary(words.type)
    ends: np.ndarray = np.frombuffer(words.buffers()[1], "int64" if large else "int32")[words.offset :]
    return int(np.subtract(ends[at + 1], ends[at]).sum(dtype=np.int64))


def _named(given: str, call: Callable[[], T]) -> T:
    """The result of `call`. An error of `call` is raised with the file's name."""
    try:
        return call()
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{given}: not a sound parquet file: {visible(said[0][:200])}") from None
