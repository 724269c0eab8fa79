"""Opens files of rows by name, with the right reader and format."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from copd.errors import BadRow, DataError
from copd.rows.formats import NO_NAMES, Raw, Row, RowRules, names_in, read_row
from copd.rows.hub import hub_files
from copd.rows.json_list import JsonListFile, is_list
from copd.rows.media import DataRoot, MediaRules
from copd.rows.sources import JsonLinesFile, RowFile, stamp_of
from copd.rows.usual import Names
from copd.system.files import HUB


@dataclass(frozen=True)
class Settings:
    """How rows are read; fields as in `copd.recipe.task_sections.RowsTask`."""

    rules: RowRules
    format: str = "auto"
    columns: Names = field(default_factory=dict)
    data_root: Path | None = None
    revision: str | None = None
    media: MediaRules = field(default_factory=MediaRules)
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    bad_rows: str = "error"
    max_bad_rows: int = 100


@dataclass(frozen=True)
class Source:
    """A file whose format is known. `names`: our names of columns that have others in it."""

    file: RowFile
    format: str
    names: Names = field(default_factory=lambda: NO_NAMES)

    def row(self, raw: Raw | BadRow, rules: RowRules) -> Row:
        """Check a row that the file's `scan` gave. Raises BadRow."""
        if isinstance(raw, BadRow):
            raise raw
        return read_row(raw, self.format, rules, self.names)


def open_files(given: Sequence[str], split: str, settings: Settings) -> list[Source]:
    """Open the files behind the names of one split and detect their formats. Raises DataError."""
    files: list[Source] = []
    for name in given:
        if name.startswith(HUB):
            paths, root = hub_files(name, split, settings.revision)
            named = [(path, f"{name}: {path.relative_to(root.folder)}") for path in paths]
        else:
            named, root = [(Path(name), name)], DataRoot.at(Path(name).parent)
        if settings.data_root is not None:
            root = DataRoot.at(settings.data_root)
        for path, shown in named:
            file = open_rows(path, shown, root)
            files.append(Source(file, *names_in(file.first_columns(), settings.format, settings.columns, shown)))
    return files


JSON_LINES, PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet",)
NAMED = "named .jsonl, .ndjson, .json or .parquet"


def check_file(path: Path, given: str) -> None:
    """Raises DataError if there is no such file, or it cannot be read, is empty or has no name of a file of rows."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise DataError(f"{given}: {found}; accepted: a file, {NAMED}")
        path.open("rb").close()
    except FileNotFoundError:
        raise DataError(f"{given}: no such file; accepted: a file, {NAMED}, or {HUB}OWNER/NAME of the hub") from None
    except OSError as error:
        raise DataError(f"{given}: cannot be read: {error.strerror}") from None
    if not status.st_size:
        raise DataError(f"{given}: empty, 0 bytes")
    if path.suffix not in (*PARQUET, *JSON_LINES):
        raise DataError(f"{given}: accepted: a file, {NAMED}")


def open_rows(path: Path, given: str, root: DataRoot) -> RowFile:
    """The rows of a .jsonl, .json or .parquet file. Raises DataError for another file, or one that cannot be read."""
    check_file(path, given)
    if path.suffix in PARQUET:
        from copd.rows.parquet import ParquetFile

        return ParquetFile(given, path, root, stamp_of(path))
    with path.open("rb") as file:
        kind = JsonListFile if is_list(file.read(4096)) else JsonLinesFile
    return kind(given, path, root, stamp_of(path))
