"""What a filter has learned so far, in a file beside its result, so that it can go on after an interruption."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from copd.assemble.assembled import Assembled
from copd.assemble.sampling import versions_of_sampler
from copd.commands.export import base_sums
from copd.errors import CheckpointError, WriteError, wrong_in
from copd.runs.changes import differences
from copd.runs.experts import DECIDE_NOTHING
from copd.runs.runlog import JsonLines, read_lines
from copd.types import Rated, Split

DECIDES_ANSWERS = ("seed", "model", "branches", "sampling", "verifiers", "reward")
"""The sections of a recipe on which the answers to rows depend."""
DECIDE_NO_ANSWER = ("bad_rows", "max_bad_rows")
"""Fields of a task on which they do not."""


class Answered:
    """The chunks of rows that are answered, by number. The file is locked until `close`.

    Its first line says what the answers depend on, each other line holds a chunk. A half line at its end is dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the file, or make it. Raises CheckpointError if it was begun otherwise, is damaged, or is in use.

        Raises WriteError if it cannot be made.
        """
        self.path, self.chunks = path, dict[int, Rated]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = JsonLines(path)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            if not self._lines.lock():
                raise CheckpointError(f"{path}: another process filters into it; let it end, or give another --out")
            self._lines.truncate(sys.maxsize)
            self._read(json.loads(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def _read(self, settings: dict[str, Any]) -> None:
        anew = f"remove {self.path} to start anew"
        try:
            records = list(read_lines(self.path))
            before = records[0]["settings"] if len(records) > 1 else settings  # nothing is lost before the first chunk
            changes = [change for key in settings for change in differences(key, before[key], settings[key])]
            self.chunks = {record["chunk"]: _rated(record) for record in records[1:]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path}: damaged, cannot go on ({wrong_in(error)}); {anew}") from error
        if changes:
            raise CheckpointError("\n".join([*(f"{self.path}: cannot go on: {change}" for change in changes), anew]))
        if not self.chunks:
            self._lines.truncate(0)
            self._lines.write({"settings": settings})

    def add(self, number: int, rated: Rated) -> None:
        """Write down a chunk; it is on disk when this returns. Raises CheckpointError if it cannot be written."""
        self._lines.write({"chunk": number, **vars(rated)})
        self._lines.sync()
        self.chunks[number] = rated

    def close(self) -> None:
        """Close the file; another process may use it."""
        self._lines.close()

    def remove(self) -> None:
        """Remove the file, which has served."""
        self.path.unlink(missing_ok=True)


def _rated(record: Mapping[str, Any]) -> Rated:
    right, bad = ({int(place): found for place, found in record[name].items()} for name in ("right", "bad"))
    return Rated(right, bad, record["failures"])


def settings_of_answers(made: Assembled, samples: int) -> dict[str, Any]:
    """What the answers to the rows of a recipe's only branch depend on: settings, and the hashes of files."""
    dumped = made.recipe.model_dump(mode="json")
    for field in DECIDE_NOTHING:
        del dumped["model"][field]
    ((branch, rows),) = made.fingerprints.items()
    for field in DECIDE_NO_ANSWER:
        del dumped["branches"][branch]["task"][field]
    return {
        "samples": samples,
        "recipe": {name: dumped[name] for name in DECIDES_ANSWERS},
        "model_sha256": base_sums(made.recipe),
        "rows_sha256": rows[Split.TRAIN.value],
        "code_sha256": {field: code.sha256 for field, code in made.code.items()},
        "versions": {name: version(name) for name in ("copd", "torch", "transformers")}
        | versions_of_sampler(made.recipe),
    }
