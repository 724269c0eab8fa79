"""The run's record: JSON lines that can be cut back to a checkpoint."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from copd.errors import CheckpointError
from copd.system.files import replace_text

RUN_MANIFEST = "manifest.json"
"""The file of a run folder that holds its recipe, versions, hashes and seed."""
REPORT = "report.html"
"""The page about a finished run."""
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
"""The files of a run folder that hold its events, and the answers that its branches gave when they were measured."""
ANSWERS = "answers.jsonl"
"""The file that says, per model and capability, which test problems were answered right."""


class JsonLines:
    """An append-only file with one JSON object a line. Each line is handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record. A number that is not finite becomes null, so that every line is valid JSON.

        Raises CheckpointError naming the file if it cannot be written; then no part of the record is left in it.
        """
        left = json.dumps(finite(record), allow_nan=False).encode() + b"\n"
        before = self.size
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self.truncate(before)
            raise CheckpointError(f"{self.path}: cannot be written: {error}") from error

    def sync(self) -> None:
        """Flush what was written to disk. Raises CheckpointError naming the file if it cannot be written."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written: {error}") from error

    def lock(self) -> bool:
        """Lock the file against other processes until it is closed. False if another process has locked it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the file: nothing more will be written."""
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes written so far. A checkpoint remembers this number."""
        return self._file.tell()

    def truncate(self, size: int) -> None:
        """Remove everything after the first `size` bytes. From a shorter file, remove a half line at its end."""
        end = self._file.seek(0, os.SEEK_END)
        if end < size:
            size = self.path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(min(size, end))
        self._file.seek(0, os.SEEK_END)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file. A last line that a crash cut short is left out.

    Raises ValueError naming the line that is not JSON.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number}: {error}") from error


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a whole file of records at once. The records hold finite numbers only."""
    replace_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def finite(value: Any) -> Any:
    """A record as JSON can hold it: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
