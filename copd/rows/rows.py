"""The user's own problems: rows of local files or of the hub, as a task.

Every row is read and checked once at the start, media excepted, and remembered by its place in its file: some twenty
bytes. A problem is a pure function of (seed, split, index): training problems come in a new order every epoch, drawn
from (seed, epoch); validation and test problems in the order of the files, whatever the seed. An index beyond the rows
starts again.

A split without files of its own is cut from the training files by hash: rows with media by the whole list of what they
show, by path or as bytes, others by their text. So rows that name exactly the same media, or ask the same text, are in
one split. A picture that stands in several rows, each time with others or under another name, may be in two: such data
need files of their own for every split.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from copd.errors import BadRow, DataError
from copd.rows.columns import columns_of
from copd.rows.formats import Row
from copd.rows.index import RowIndex, RowSet, cut
from copd.rows.media import DataRoot, MediaRules, load_frames, load_image, named
from copd.rows.opening import Settings, Source, open_files
from copd.rows.sources import RowFile, check_stamp
from copd.rows.video import load_video
from copd.system.files import sha256
from copd.types import Problem, Split

KEPT_ORDERS = 16
"""Epochs whose order is remembered: the branch's own and those of its visitors."""


@dataclass(frozen=True)
class Index:
    """What reading all rows of a task has told, for another process: its rows, its files' stamps, its bad rows."""

    sets: Mapping[Split, RowSet]
    stamps: Mapping[Split, Sequence[tuple[int, int]]]
    left_out: frozenset[str]


class BadRows:
    """The policy for bad rows: the first is an error, or they are left out, up to a limit."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_bad_rows if settings.bad_rows == "skip" else 0
        self._skip = settings.bad_rows == "skip"
        self.left_out: set[str] = set()

    def meet(self, where: str, why: BadRow) -> None:
        """Count a bad row; raises DataError where the policy has no room for it."""
        if not self._skip:
            raise DataError(f"{where}: {why}; `copd data check` lists all bad rows, bad_rows: skip leaves them out")
        self.left_out.add(where)
        if len(self.left_out) > self._limit:
            raise DataError(f"{where}: {why}; with it more than max_bad_rows={self._limit} rows are bad")


class Rows:
    """A `copd.types.Task` over files of rows. Raises DataError where they cannot be used."""

    def __init__(
        self,
        name: str,
        files: Mapping[Split, Sequence[str] | None],
        settings: Settings,
        *,
        seed: int = 0,
        shares: Mapping[Split, float] | None = None,
        asked: Mapping[Split, int] | None = None,
        index: Index | None = None,
    ) -> None:
        """`shares` of train stand in for splits without files; `asked`: problems of the others that `try_asked` tries.

        With the `index` of the same task in another process no row is read now.
        """
        self.name, self.settings = name, settings
        self._seed, self._asked = seed, asked or {}
        self._bad = BadRows(settings)
        self._unfit: Callable[[Problem], str | None] = lambda problem: None
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        self._opened = {split: open_files(names, split.value, settings) for split, names in files.items() if names}
        if index is not None:
            self._take(index)
            return
        self._sets = {split: self._indexed(opened) for split, opened in self._opened.items()}
        missing = {split: (shares or {}).get(split, 0.0) for split in Split if split not in self._sets}
        self._sets |= cut(self._sets[Split.TRAIN], missing)
        for split, rows in self._sets.items():
            if not len(rows):
                raise DataError(f"task {name}: no row is left for {split.value}; give more rows, files or a share")

    def size(self, split: Split) -> int:
        """Different problems of a split."""
        return len(self._sets[split])

    @property
    def skipped(self) -> int:
        """Bad rows left out so far."""
        return len(self._bad.left_out)

    @property
    def index(self) -> Index:
        """For the same task in another process, which then reads no row at its start."""
        stamps = {split: [source.file.stamp for source in opened] for split, opened in self._opened.items()}
        return Index(self._sets, stamps, frozenset(self._bad.left_out))

    def _take(self, index: Index) -> None:
        for split, opened in self._opened.items():
            for source, stamp in zip(opened, index.stamps[split], strict=True):
                check_stamp(source.file.given, source.file.stamp, stamp)
        self._sets = dict(index.sets)
        self._bad.left_out |= index.left_out

    def fingerprint(self) -> dict[str, dict[str, str]]:
        """Split, then file, to its sha256. Media that rows name by path are not part of it."""
        return {
            split.value: {source.file.given: sha256(source.file.path) for source in opened}
            for split, opened in self._opened.items()
        }

    def reject(self, unfit: Callable[[Problem], str | None]) -> None:
        """From now on treat as bad the rows for whose problem `unfit` gives a reason, such as a prompt too long."""
        self._unfit = unfit

    def try_asked(self) -> None:
        """Try the problems of validation and test that will be asked for, media and all; bad rows leave their split.

        Raises DataError where too few are left.
        """
        for split, count in self._asked.items():
            self._leave_out_bad(split, count)

    def _leave_out_bad(self, split: Split, count: int) -> None:
        """Try the rows of a split until so many are sound, and leave out those that are not."""
        sound_n, found = np.ones(self.size(split), bool), 0
        for at in range(len(sound_n)):
            if found == count:
                break
            try:
                self._problem(split, at)
                found += 1
            except BadRow as error:
                self._bad.meet(self.where(split, at), error)
                sound_n[at] = False
        if found < count:
            raise DataError(f"task {self.name}: {found} sound rows are left for {split.value}, {count} are asked for")
        self._sets[split] = self._sets[split].chosen(sound_n)

    def problem(self, split: Split, index: int) -> Problem:
        """The problem with this index. Raises DataError naming file and line for a row found bad only now.

        Where bad rows are skipped, the next in file order takes the place of a training row; in validation and test
        it would be counted twice.
        """
        count = self.size(split)
        first = int(self._order(index // count)[index % count]) if split is Split.TRAIN else index % count
        for at in chain(range(first, count), range(first)):
            try:
                return self._problem(split, at)
            except BadRow as error:
                where = self.where(split, at)
                self._bad.meet(where, error)
                if split is not Split.TRAIN:
                    raise DataError(
                        f"{where}: {error}; found only now, and no row of {split.value} is counted twice: remove it"
                    ) from None
        raise DataError(f"task {self.name}: every row of {split.value} is bad")

    def in_file_order(self, split: Split) -> Iterator[tuple[int, Problem]]:
        """Every row of a split once: its place among them, and its problem. Bad rows are reported or left out."""
        for at in range(self.size(split)):
            try:
                problem = self._problem(split, at)
            except BadRow as error:
                self._bad.meet(self.where(split, at), error)
            else:
                yield at, problem

    def sources(self, split: Split) -> list[Source]:
        """The files of a split; one that was cut from the training files has none of its own."""
        return self._opened.get(split, self._opened[Split.TRAIN])

    def with_cut_rows(self, places: Sequence[int]) -> list[tuple[RowFile, list[int]]]:
        """Each training file with the positions of its training rows at these places, and of all that were cut off.

        As training files these rows would be cut into the same validation and test rows.
        """
        cut_off = [rows for split, rows in self._sets.items() if split not in self._opened]
        train, chosen_n = self._sets[Split.TRAIN], np.zeros(self.size(Split.TRAIN), bool)
        chosen_n[places] = True
        sets = [train.chosen(chosen_n), *cut_off]
        return [
            (source.file, sorted(at for rows in sets for at in rows.position_n[rows.file_n == number].tolist()))
            for number, source in enumerate(self._opened[Split.TRAIN])
        ]

    def where(self, split: Split, at: int) -> str:
        """File and line of a row."""
        return f"{self._source(split, at).file.given}:{self._sets[split].line_n[at]}"

    def _problem(self, split: Split, at: int) -> Problem:
        source = self._source(split, at)
        raw = source.file.read(int(self._sets[split].position_n[at]))
        row = source.row(raw, self.settings.rules)
        images, videos, rates = load_media(row, source.file.root, self.settings.media)
        problem = Problem(
            id=row.id or self.where(split, at),
            task=self.name,
            prompt=row.prompt,
            answer=row.answer,
            verifier=row.verifier,
            images=images,
            videos=videos,
            fps=rates,
            messages=row.messages,
            chat_template_kwargs=self.settings.chat_template_kwargs,
            columns=columns_of(raw),
        )
        if reason := self._unfit(problem):
            raise BadRow(reason)
        return problem

    def _source(self, split: Split, at: int) -> Source:
        return self.sources(split)[self._sets[split].file_n[at]]

    def _order(self, epoch: int) -> np.ndarray:
        """The order of the training rows in an epoch."""
        if epoch not in self._orders:
            while len(self._orders) >= KEPT_ORDERS:
                self._orders.popitem(last=False)
            self._orders[epoch] = np.random.default_rng((self._seed, epoch)).permutation(self.size(Split.TRAIN))
        return self._orders[epoch]

    def _indexed(self, sources: Sequence[Source]) -> RowSet:
        """The sound rows of some files, those with the id of an earlier one left out."""
        index = RowIndex()
        for number, source in enumerate(sources):
            for line, position, raw in source.file.scan():
                try:
                    row = source.row(raw, self.settings.rules)
                    find_media(row, source.file.root)
                except BadRow as error:
                    self._bad.meet(f"{source.file.given}:{line}", error)
                else:
                    index.add(number, line, position, row)
        repeated = []
        for again, first in index.repeated():
            where = [f"{sources[number].file.given}:{line}" for number, line in map(index.place, (again, first))]
            self._bad.meet(where[0], BadRow(f"has the id of {where[1]}"))
            repeated.append(again)
        return index.rows(repeated)


def find_media(row: Row, root: DataRoot) -> None:
    """Raise BadRow for a path that may not be used or leads to no file; nothing is decoded."""
    for what, references in (("image", row.images), ("video", row.videos)):
        for reference in references:
            for one in reference if isinstance(reference, tuple) else (reference,):
                if isinstance(one, str):
                    try:
                        root.find(one)
                    except BadRow as error:
                        raise BadRow(f"{what} {named(one)}: {error}") from None


def load_media(
    row: Row, root: DataRoot, rules: MediaRules
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[float, ...]]:
    """A row's images, its videos, and the videos' frames per second; raises BadRow."""
    images = tuple(load_image(reference, root, rules) for reference in row.images)
    videos = [
        load_frames(video, root, rules, row.fps) if isinstance(video, tuple) else load_video(video, root, rules)
        for video in row.videos
    ]
    return images, tuple(frames for frames, _ in videos), tuple(fps for _, fps in videos)
