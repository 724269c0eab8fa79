"""`copd data prepare`: a published set as rows of ours, with its pictures in files and a card that counts rows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from copd import __version__
from copd.assemble.rows import rules_of
from copd.data.prepared_media import Store
from copd.errors import BadRow, DataError, WriteError, visible
from copd.rewards.grading import OURS
from copd.rows.check import UNNAMED
from copd.rows.formats import RowRules, read_row
from copd.rows.hub import hub_files
from copd.rows.media import DataRoot
from copd.rows.opening import JSON_LINES, NAMED, PARQUET, Settings, open_files, open_rows
from copd.rows.references import Video
from copd.rows.sources import RowFile
from copd.sets.converting import LeftOut, Shape
from copd.sets.overlap import Overlap, spaced
from copd.sets.published import PublishedSet, published, shape_in
from copd.system.files import HUB, flush, passing_folder, replace_text, sha256
from copd.types import Split

MEDIA = "media"
"""The folder, beside the rows, of pictures that a set holds in its own files."""
EXAMPLES = 10
"""Most bad rows that are shown."""


@dataclass
class Prepared:
    """What became of a set: rows read and written, rows left out by reason, the first bad rows, the files read.

    `data_root`: where the paths of the new rows start, if not in the folder of their file. `uncompared`: what of the
    files `without` could not be read.
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
    uncompared: list[str] = field(default_factory=list)

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
        lines += [f"  {each}" for each in self.uncompared]
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
    DataError for a set, a source or a folder `media` that does not exist, a source that has no shape of the set, a file
    `without` that has no sound row, if no row is left, and if NAME.jsonl exists already. Raises WriteError if `out`
    cannot be written.
    """
    about = published(name)
    file = out / f"{name}.jsonl"
    _refuse_existing(out, file)
    if media is not None and not media.is_dir():
        raise DataError(f"--media {media}: no such folder")
    parts = _parts(name, about, given, revision, media)
    made = Prepared(name, about, file, [part.told for part in parts])
    tested = _questions(without, made.uncompared)
    rows = _Converted(made, Store(_data_root(parts, out, media), out.resolve() / MEDIA / name), tested)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be a folder: {error.strerror or error}") from error
    with passing_folder(out) as passing:
        _write(rows.of(parts), passing / file.name, file)
        if not made.written:
            raise DataError("\n".join([f"{name}: no row is left", *made.lines()]))
        replace_text(out / f"{name}.md", _card(made, without))
        _refuse_existing(out, file)
        os.replace(passing / file.name, file)
    return made


def _refuse_existing(out: Path, file: Path) -> None:
    if os.path.lexists(file):
        raise DataError(f"--out {out}: {file} exists already; remove it, or give another folder")


def _write(rows: Iterable[Mapping[str, Any]], temporary: Path, file: Path) -> None:
    """Write rows to a temporary file, which is on disk when this returns. Raises WriteError naming the `file`."""
    try:
        with temporary.open("w", encoding="utf-8") as target:
            for row in rows:
                target.write(json.dumps(row, ensure_ascii=False) + "\n")
        flush(temporary)
    except OSError as error:
        if error.filename is not None:  # a source, not this file
            raise
        raise WriteError(f"{file}: cannot be written: {error.strerror or error}") from error


class SetFile(NamedTuple):
    """A file of a set, its shape, and the commit of the hub that it is of."""

    file: RowFile
    shape: Shape
    commit: str | None

    @property
    def told(self) -> str:
        """The file, with commit and digest."""
        commit = f", commit {self.commit}" if self.commit else ""
        return f"{self.file.given}{commit}, sha256 {sha256(self.file.path)}"


def _parts(
    name: str, about: PublishedSet, given: Sequence[str], revision: str | None, media: Path | None
) -> list[SetFile]:
    """All files of the sources. Raises DataError for a source without one, or with a file of no known shape."""
    if not given and about.default is None:
        raise DataError(f"{name}: give its files; the set is published as {', '.join(about.homes)}")
    sources = given or [about.default or ""]
    if revision is not None and not any(source.startswith(HUB) for source in sources):
        raise DataError(f"--revision {revision}: no source is of the hub, {HUB}OWNER/NAME; leave it out")
    parts = []
    for source in sources:
        found = list(_files(source, revision, media))
        if not found:
            raise DataError(f"{source}: holds no file {NAMED}")
        for file, commit in found:
            parts.append(SetFile(file, shape_in(about.shapes, file.first_columns(), file.given), commit))
    return parts


def _files(source: str, revision: str | None, media: Path | None) -> Iterator[tuple[RowFile, str | None]]:
    """The files of a source, each with the commit of the hub that it is of."""
    if source.startswith(HUB):
        paths, root = hub_files(source, Split.TRAIN.value, revision)
        for path in (path for path in paths if path.suffix in (*JSON_LINES, *PARQUET)):
            shown = f"{source}: {path.relative_to(root.folder)}"
            yield open_rows(path, shown, root if media is None else DataRoot.at(media)), root.folder.name
        return
    folder = Path(source)
    there = (path for path in folder.rglob("*") if path.suffix in (*JSON_LINES, *PARQUET) and path.is_file())
    for path in sorted(there) if folder.is_dir() else [folder]:
        yield open_rows(path, str(path), DataRoot.at(media or path.parent)), None


def _data_root(parts: Sequence[SetFile], out: Path, media: Path | None) -> Path:
    """The folder in which the paths of the new rows start: the one that holds all pictures and videos.

    Parquet files hold them, and they go to `out`, unless a folder `media` is given.
    """
    in_parquet = [part.file.path.suffix in PARQUET for part in parts]
    folders = {out.resolve()} if any(in_parquet) else set()
    for part, parquet in zip(parts, in_parquet, strict=True):
        if media is not None or not parquet:
            folders.add(part.file.root.folder.resolve())
    return Path(os.path.commonpath([*folders]))


def _names(parts: Sequence[SetFile]) -> list[str]:
    """What the ids of each file's rows begin with: its name, or its path where two files have one name."""
    stems = [part.file.path.stem for part in parts]
    if len({*stems}) == len(parts):
        return stems
    paths = [part.file.path.absolute() for part in parts]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def _questions(files: Sequence[str], uncompared: list[str]) -> Overlap:
    """The questions of files of rows; bad rows are told to `uncompared`.

    Raises DataError for a file that cannot be read, or that has no sound row.
    """
    overlap, settings = Overlap(), Settings(rules_of("boxed", verifiers=OURS, verifier=UNNAMED))
    for source in open_files(files, Split.TEST.value, settings):
        read, bad = 0, []
        for line, _, raw in source.file.scan():
            read += 1
            try:
                overlap.add(source.row(raw, settings.rules).question)
            except BadRow as why:
                bad.append(f"{source.file.given}:{line}: {why}")
        if len(bad) == read:
            raise DataError(f"--without {source.file.given}: no row of it is sound; the first: {bad[0]}")
        if bad:
            uncompared.append(f"--without: {len(bad)} of {read} rows are bad and compared with nothing: {bad[0]}")
    return overlap


@dataclass
class _Converted:
    """Makes the rows of a set ours, and counts those that it leaves out."""

    made: Prepared
    store: Store
    tested: Overlap
    _seen: set[bytes] = field(default_factory=set)

    def of(self, parts: Sequence[SetFile]) -> Iterator[dict[str, Any]]:
        """The rows that are kept, in the order of the files."""
        rules, quiet = rules_of("boxed", verifiers=OURS), not Console().is_terminal
        named_parts = zip(_names(parts), parts, strict=True)
        scanned = ((name, part, line, raw) for name, part in named_parts for line, _, raw in part.file.scan())
        for name, part, line, raw in track(scanned, "rows", transient=True, disable=quiet):
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
                yield {"id": f"{name}:{line}", **row}

    def _row(self, part: SetFile, raw: Mapping[str, Any] | BadRow, rules: RowRules) -> dict[str, Any]:
        """A row of ours. Raises BadRow for one that cannot be read, LeftOut for one that is not kept."""
        if isinstance(raw, BadRow):
            raise raw
        fields = part.shape.convert(raw)
        row = read_row(fields, "native", rules)
        media = {
            "images": [self.store.path(image, part.file.root) for image in row.images],
            "videos": [self._video(video, part) for video in row.videos],
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

    def _video(self, video: Video, part: SetFile) -> str:
        if isinstance(video, tuple):
            raise BadRow("a video is given as frames; accepted: a path")
        return self.store.path(video, part.file.root)


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"options": fields["options"]} if "options" in fields else {}


def _card(made: Prepared, without: Sequence[str]) -> str:
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
            *([f"- Without the questions of: {visible(', '.join(without))}"] if without else []),
            *([f"- data_root: {visible(str(made.data_root))}"] if made.data_root else []),
            *(f"- {visible(each)}" for each in made.uncompared),
            *(f"- {remark}" for remark in about.remarks),
            "",
            "| rows | number |",
            "|---|---|",
            *(f"| {what} | {count:,} |" for what, count in made.counts()),
            *(["", "The first bad rows:", "", *(f"- {visible(each)}" for each in made.bad)] if made.bad else []),
            "",
        ]
    )
