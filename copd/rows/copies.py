"""Copies of some rows, unchanged, to a new file that can replace theirs. The file is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from copd.errors import BadRow, DataError
from copd.rows.opening import JSON_LINES, PARQUET, Settings, Source
from copd.rows.sources import RowFile


def check_copy(sources: Sequence[Source], settings: Settings, out: Path) -> None:
    """Raise DataError if rows of these files cannot be in one file `out` and be read there as before."""
    _refuse_existing(out)
    kinds = [kind for kind in (JSON_LINES, PARQUET) if any(source.file.path.suffix in kind for source in sources)]
    if len(kinds) > 1 or len({source.format for source in sources}) > 1:
        found = ", ".join(f"{source.file.given} ({source.format})" for source in sources)
        raise DataError(f"{found}: one file holds rows of one format only; treat them one by one, giving each as FILE")
    if out.suffix not in kinds[0]:
        raise DataError(f"--out {out}: rows stay as they are; name it {kinds[0][0]}")
    if settings.data_root is not None:
        return
    for source in sources:
        folder = source.file.root.folder
        if folder.resolve() != out.parent.resolve() and _names_media(source, settings):
            raise DataError(
                f"--out {out}: rows of {source.file.given} name images or videos by paths that start at {folder}; "
                "write it into that folder, or set the task's data_root"
            )


def write_copy(kept: Sequence[tuple[RowFile, Sequence[int]]], out: Path) -> None:
    """Write the rows at these positions of each file, in this order. Raises DataError for a file that has changed."""
    temporary = out.with_name(f".{out.name}.writing")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with kept[0][0].writer(temporary) as write:
            for file, positions in kept:
                write(file, positions)
        _refuse_existing(out)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise DataError(f"--out {out}: exists already; give another name")


def _names_media(source: Source, settings: Settings) -> bool:
    """Whether any sound row names an image, a video or a frame by its path."""
    for _, _, raw in source.file.scan():
        with suppress(BadRow):
            if any(isinstance(reference, str) for reference in source.row(raw, settings.rules).references):
                return True
    return False
