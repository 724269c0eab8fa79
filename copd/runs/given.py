"""Rows that a program hands over, written into the run folder as files, which can be hashed and resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from copd.errors import RecipeError, WriteError
from copd.runs.runlog import RUN_MANIFEST
from copd.system.files import replace_bytes
from copd.types import Split

GIVEN = "given"
"""The folder in a run folder with the rows that a program handed over."""
SPLITS = [split.value for split in Split]
IN_A_RUN = re.compile(rf"(?:.*/)?({GIVEN}/[\w-]+-(?:{'|'.join(SPLITS)})\.(?:jsonl|parquet))", re.DOTALL)
"""Pattern of a file that `write_rows` wrote, by its path."""
ACCEPTED = "accepted: a list of mappings that JSON can express, or a table with to_parquet, such as a datasets.Dataset"


def by_split(branch: str, rows: Any) -> dict[str, Any]:
    """The rows of each split. Rows without splits are for training. Raises RecipeError for another split."""
    if not isinstance(rows, Mapping):
        return {Split.TRAIN.value: rows}
    if strangers := sorted(map(str, set(rows) - set(SPLITS))):
        raise RecipeError(f"rows.{branch}: unknown split {strangers[0]!r}; accepted: rows, or {', '.join(SPLITS)}")
    return dict(rows)


def wherever_given(value: Any) -> Any:
    """A part of a manifest without the run folders of rows that a program handed over: they are known by their hash.

    Such a file is the only one of its split. Several keep their folders, which tell them apart.
    """
    if not isinstance(value, Mapping | list):
        return value
    alone = len(value) == 1

    def named(each: Any) -> Any:
        file = IN_A_RUN.fullmatch(each) if alone and isinstance(each, str) else None
        return file[1] if file else wherever_given(each)

    if isinstance(value, Mapping):
        return {named(key): wherever_given(item) for key, item in value.items()}
    return [named(item) for item in value]


def write_rows(folder: Path, branch: str, split: str, rows: Any) -> Path:
    """Write rows into a run folder, as .parquet what has `to_parquet`, else as .jsonl. Returns the file.

    Files that a start left behind before its run began are written anew. Raises RecipeError for rows that cannot be
    written, or if a run has begun with others, and WriteError naming the file if it cannot be written.
    """
    field = f"rows.{branch}.{split}"
    table = hasattr(rows, "to_parquet")
    content = _as_parquet(field, rows) if table else _as_lines(field, rows)
    path = folder / GIVEN / f"{branch}-{split}.{'parquet' if table else 'jsonl'}"
    if path.is_file() and (folder / RUN_MANIFEST).is_file():
        if path.read_bytes() != content:
            raise RecipeError(f"{field}: the run began with others ({path}); give those, or another folder")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    replace_bytes(path, content)
    return path


def _as_parquet(field: str, rows: Any) -> bytes:
    content = BytesIO()
    try:
        rows.to_parquet(content)
    except Exception as error:
        raise RecipeError(f"{field}: its to_parquet fails: {type(error).__name__}: {error}") from error
    return content.getvalue()


def _as_lines(field: str, rows: Any) -> bytes:
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise RecipeError(f"{field}: found {type(rows).__name__}; {ACCEPTED}")
    lines = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RecipeError(f"{field}[{index}]: found {type(row).__name__}; {ACCEPTED}")
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise RecipeError(f"{field}[{index}]: {error}; {ACCEPTED}") from error
    if not lines:
        raise RecipeError(f"{field}: holds no row; {ACCEPTED}")
    return b"".join(lines)
