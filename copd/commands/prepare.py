"""`copd data prepare`: a published set as rows of ours, with its pictures in files and a card that counts rows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from copd import __version__
from copd.assemble.rows import rules_of
from copd.errors import BadRow, DataError, visible
from copd.rewards.grading import OURS
from copd.rows.check import UNNAMED
from copd.rows.formats import RowRules, read_row
from copd.rows.hub import hub_files
from copd.rows.media import FORMATS, DataRoot, Reference, named
from copd.rows.opening import JSON_LINES, NAMED, PARQUET, Settings, open_files, open_rows
from copd.rows.sources import RowFile
from copd.sets.converting import LeftOut, Shape
from copd.sets.overlap import Overlap, spaced
from copd.sets.published import PublishedSet, published, shape_in
from copd.system.files import HUB, replace_bytes, replace_text, sha256
from copd.types import Split

MEDIA = "media"
"""The folder, beside the rows, of pictures that a set holds in its own files."""
PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
"""How the files of pictures that are accepted begin, and what they are called."""
EXAMPLES = 10
"""Most bad rows that are shown."""


@dataclass
class Prepared:
    """What became of a set: rows read and written, rows left out by reason, the first bad rows, the files read.

    `data_root`: where the paths of the new rows start, if not in the folder of their file.
    """

    name: str
    about: PublishedSet
    file: Path
    sources: list[str]
    data_root: Path | None = None
    read: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def counts(self) -> list[tuple[str, int]]:
        """Rows by what became of them."""
        return [
            ("rows read", self.read),
            *((f"left out: {why}", count) for why, count in self.left_out.most_common()),
            ("rows written", self.written),
        ]

    def lines(self) -> list[str]:
        """The counts, the first bad rows, and what a user should know before using the rows."""
        width = max(len(what) for what, _ in self.counts())
        lines = [f"  {what:<{width}} {count:>9,}" for what, count in self.counts()]
        lines += [f"  bad: {each}" for each in self.bad]
        if self.about.problems not in (None, self.written):
            found = f"{self.about.title} has {self.about.problems} problems"
            lines.append(f"  {found}; a score on {self.written} is not a score on it")
        return lines


def prepare(
    name: str,
    given: Sequence[str],
    out: Path,
    *,
    revision: str | None = None,
    media: Path | None = None,
    without: Sequence[str] = (),
) -> Prepared:
    """Write the rows of a published set that copd can train on or test with, into the folder `out`.

    `given` are files, folders, or `hub:OWNER/NAME[/FILE]` at `revision`; by default the set's own place. Paths in rows
    start in `media`, by default the folder of their file. Rows that repeat a question of the files `without` are left
    out. Written are NAME.jsonl, NAME.md, which counts what was left out and why, and pictures below `media/`. Raises
    DataError for a set or a source that does not exist or has no shape of the set, if no row is left, and if NAME.jsonl
    exists already.
    """
    about = published(name)
    file = out / f"{name}.jsonl"
    if os.path.lexists(file):
        raise DataError(f"--out {out}: {file} exists already; remove it, or give another folder")
    parts = _parts(name, about, given, revision, media)
    root = _data_root(parts, out)
    sources = [f"{part.file.given}, sha256 {sha256(part.file.path)}" for part in parts]
    made = Prepared(name, about, file, sources)
    rows = _Converted(made, Store(root, out.resolve() / MEDIA / name), _questions(without))
    temporary = file.with_name(f".{file.name}.writing")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as target:
            for row in rows.of(parts):
                target.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not made.written:
            raise DataError("\n".join([f"{name}: no row is left", *made.lines()]))
        os.replace(temporary, file)
        replace_text(out / f"{name}.md", _card(made, revision, without))
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return made


class Part(NamedTuple):
    """A file of a set and its shape."""

    file: RowFile
    shape: Shape


def _parts(
    name: str, about: PublishedSet, given: Sequence[str], revision: str | None, media: Path | None
) -> list[Part]:
    """All files of the sources. Raises DataError for a source without one, or with a file of no known shape."""
    if not given and about.default is None:
        raise DataError(f"{name}: give its files; the set is published as {', '.join(about.homes)}")
    parts = []
    for source in given or [about.default or ""]:
        found = list(_files(source, revision, media))
        if not found:
            raise DataError(f"{source}: holds no file {NAMED}")
        parts += [Part(file, shape_in(about.shapes, file.first_columns(), file.given)) for file in found]
    return parts


def _files(source: str, revision: str | None, media: Path | None) -> Iterator[RowFile]:
    if source.startswith(HUB):
        paths, root = hub_files(source, Split.TRAIN.value, revision)
        for path in (path for path in paths if path.suffix in (*JSON_LINES, *PARQUET)):
            shown = f"{source}: {path.relative_to(root.folder)}"
            yield open_rows(path, shown, root if media is None else DataRoot.at(media))
        return
    folder = Path(source)
    there = (path for path in folder.rglob("*") if path.suffix in (*JSON_LINES, *PARQUET) and path.is_file())
    for path in sorted(there) if folder.is_dir() else [folder]:
        yield open_rows(path, str(path), DataRoot.at(media or path.parent))


def _data_root(parts: Sequence[Part], out: Path) -> Path:
    """The folder in which the paths of the new rows start: the one that holds all pictures and videos."""
    folders = {part.file.root.folder.resolve() for part in parts if part.file.path.suffix in JSON_LINES}
    if any(part.file.path.suffix in PARQUET for part in parts):
        folders.add(out.resolve())
    return Path(os.path.commonpath([*folders]))


def _questions(files: Sequence[str]) -> Overlap:
    """The questions of files of rows. Raises DataError for a file that cannot be read."""
    overlap, settings = Overlap(), Settings(rules_of("boxed", verifiers=OURS, verifier=UNNAMED))
    for source in open_files(files, Split.TEST.value, settings):
        for _, _, raw in source.file.scan():
            with suppress(BadRow):
                overlap.add(source.row(raw, settings.rules).question)
    return overlap


@dataclass(frozen=True)
class Store:
    """Where the media of rows are: paths in new rows start at `root`; pictures in rows become files in `folder`."""

    root: Path
    folder: Path

    def path(self, reference: Reference, root: DataRoot) -> str:
        """The path, in a new row, of a picture or video of a row of the set. Raises BadRow if it is not there."""
        if isinstance(reference, bytes):
            file = self._written(reference)
        else:
            root.find(reference)
            file = root.folder.resolve() / reference
        if not file.is_relative_to(self.root):
            raise BadRow(f"{named(reference)}: outside of {self.root}")
        return os.path.normpath(file.relative_to(self.root))

    def _written(self, picture: bytes) -> Path:
        """The file of a picture, named by its content. Raises BadRow if it is of no accepted format."""
        suffix = next((suffix for start, suffix in PICTURES.items() if picture.startswith(start)), None)
        if suffix is None:
            raise BadRow(f"{named(picture)}: not a picture of an accepted format; accepted: {', '.join(FORMATS)}")
        content = digest(picture).hexdigest()
        file = self.folder / content[:2] / f"{content[:32]}{suffix}"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(file, picture)
        return file


@dataclass
class _Converted:
    """Makes the rows of a set ours, and counts those that it leaves out."""

    made: Prepared
    store: Store
    tested: Overlap
    _seen: set[bytes] = field(default_factory=set)

    def of(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        """The rows that are kept, in the order of the files."""
        rules, quiet = rules_of("boxed", verifiers=OURS), not Console().is_terminal
        scanned = ((part, line, raw) for part in parts for line, _, raw in part.file.scan())
        for part, line, raw in track(scanned, "rows", transient=True, disable=quiet):
            self.made.read += 1
            try:
                row = self._row(part, raw, rules)
            except LeftOut as why:
                self.made.left_out[str(why)] += 1
            except BadRow as why:
                self.made.left_out["bad rows"] += 1
                if len(self.made.bad) < EXAMPLES:
                    self.made.bad.append(f"{part.file.given}:{line}: {why}")
            else:
                self.made.written += 1
                yield {"id": f"{part.file.path.stem}:{line}", **row}

    def _row(self, part: Part, raw: Mapping[str, Any] | BadRow, rules: RowRules) -> dict[str, Any]:
        """A row of ours. Raises BadRow for one that cannot be read, LeftOut for one that is not kept."""
        if isinstance(raw, BadRow):
            raise raw
        fields = part.shape.convert(raw)
        row = read_row(fields, "native", rules)
        media = {
            "images": [self.store.path(image, part.file.root) for image in row.images],
            "videos": [self.store.path(video, part.file.root) for video in row.videos if not isinstance(video, tuple)],
        }
        key = digest(json.dumps([spaced(row.question), media]).encode()).digest()
        if key in self._seen:
            raise LeftOut("an earlier row has the same question and media")
        self._seen.add(key)
        if self.tested.has_part_of(row.question):
            raise LeftOut("the question repeats one of --without")
        given = {name: paths for name, paths in media.items() if paths}
        if given and self.store.root != self.made.file.parent.resolve():
            self.made.data_root = self.store.root
        return {"prompt": fields["prompt"], **given, **_options(fields), "answer": row.answer, "verifier": row.verifier}


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"options": fields["options"]} if "options" in fields else {}


def _card(made: Prepared, revision: str | None, without: Sequence[str]) -> str:
    """What the rows are: where they come from, their licence, and what was left out."""
    about = made.about
    return "\n".join(
        [
            f"# {about.title}",
            "",
            f"Rows for copd in `{made.file.name}`, made by `copd data prepare {made.name}` of copd {__version__}.",
            "",
            f"- Published as: {', '.join(about.homes)}",
            f"- Licence: {about.licence}",
            *(f"- Source: {visible(source)}" for source in made.sources),
            *([f"- Revision: {revision}"] if revision else []),
            *([f"- Without the questions of: {visible(', '.join(without))}"] if without else []),
            *([f"- data_root: {visible(str(made.data_root))}"] if made.data_root else []),
            *(f"- {remark}" for remark in about.remarks),
            "",
            "| rows | number |",
            "|---|---|",
            *(f"| {what} | {count:,} |" for what, count in made.counts()),
            *(["", "The first bad rows:", "", *(f"- {visible(each)}" for each in made.bad)] if made.bad else []),
            "",
        ]
    )
