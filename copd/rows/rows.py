"""The user's own problems: rows of local files or of the hub, as a task.

Every row is read and checked once at the start, except for its media. Only its place in its file and its hash are
remembered, in 32 bytes. A problem is a pure function of (seed, split, index). Training problems come in a new order
every epoch, drawn from (seed, epoch). Validation and test problems come in the order of the files, whatever the seed.
An index beyond the last row starts again at the first.

A split without its own files is cut from the training files by hash. The hash of a row with media is over the list of
all its media, by path or bytes; that of another row is over its text. So rows with exactly the same media, or the same
text, are in the same split. A picture in several rows, together with other pictures or under other names, may be in two
splits. Such data need separate files for every split.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from copd.errors import BadRow, DataError
from copd.rows.columns import columns_of
from copd.rows.formats import Row, RowRules
from copd.rows.index import RowIndex, RowSet, cut
from copd.rows.media import DataRoot, named
from copd.rows.notes import count_notes
from copd.rows.opening import Settings, Source, open_files
from copd.rows.pixels import load_media
from copd.rows.sources import RowFile, check_stamp
from copd.system.files import sha256
from copd.types import Problem, Split

SIZES = {
    Split.VALIDATION: "evaluation.validation_problems and behaviour_problems",
    Split.TEST: "evaluation.problems",
}
"""The fields of a recipe that say how many problems of a split are asked."""
KEPT_ORDERS = 16
"""Most epochs whose order is remembered: the branch's own and those of its visitors."""


@dataclass(frozen=True)
class Index:
    """The result of reading all rows of a task, for another process: rows, stamps of files, bad rows."""

    sets: Mapping[Split, RowSet]
    stamps: Mapping[Split, Sequence[tuple[int, int]]]
    left_out: frozenset[str]


class NoRowLeft(DataError):
    """A split without a row."""


class BadRows:
    """The policy for bad rows: the first is an error, or bad rows are left out up to a limit."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_bad_rows if settings.bad_rows == "skip" else 0
        self._skip = settings.bad_rows == "skip"
        self.left_out: set[str] = set()

    def meet(self, where: str, why: BadRow) -> None:
        """Count a bad row. Raises DataError if the policy does not allow it."""
        if not self._skip:
            raise DataError(f"{where}: {why}; `copd data check` lists all bad rows, bad_rows: skip leaves them out")
        self.left_out.add(where)
        if len(self.left_out) > self._limit:
            raise DataError(
                f"{where}: {why}; this is bad row {len(self.left_out)}, and max_bad_rows is {self._limit}; "
                "`copd data check` lists all, a greater max_bad_rows leaves them out"
            )


class Rows:
    """A `copd.types.Task` over files of rows. Raises DataError if they cannot be used."""

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
        """`name` is the branch's. `shares` of train serve splits without files.

        `asked`: how many problems of other splits `try_asked` tries.
        With the `index` of the same task in another process, no row is read now.
        """
        self.name, self.settings = name, settings
        self._seed, self._asked = seed, asked or {}
        self._bad = BadRows(settings)
        self.notes: Counter[str] = Counter()
        """By note, the number of rows that are read only in part, or otherwise than written."""
        self._unfit: Callable[[Problem], str | None] = lambda problem: None
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        self._opened = {split: open_files(names, split.value, settings) for split, names in files.items() if names}
        if index is not None:
            self._take(index)
            return
        self._sets = {
            split: index_rows(opened, settings.rules, self._bad.meet, self._note)
            for split, opened in self._opened.items()
        }
        missing = {split: (shares or {}).get(split, 0.0) for split in Split if split not in self._sets}
        self._sets |= cut(self._sets[Split.TRAIN], missing)
        if empty := [split.value for split, rows in self._sets.items() if not len(rows)]:
            raise NoRowLeft(
                f"branches.{name}.task: no row is left for {' and '.join(empty)}; give more rows, {empty[0]} files, or "
                "a larger share"
            )

    def size(self, split: Split) -> int:
        """Number of different problems of a split."""
        return len(self._sets[split])

    def keys(self, split: Split) -> np.ndarray:
        """The key of every row of a split (`index.key_of`). [n] uint64. Equal texts, or equal media, share one."""
        return self._sets[split].key_n

    def _note(self, row: Row, root: DataRoot) -> None:
        count_notes(self.notes, row, self.settings.media)

    @property
    def skipped(self) -> int:
        """Number of bad rows left out so far."""
        return len(self._bad.left_out)

    @property
    def index(self) -> Index:
        """The index for the same task in another process, which then reads no row at its start."""
        stamps = {split: [source.file.stamp for source in opened] for split, opened in self._opened.items()}
        return Index(self._sets, stamps, frozenset(self._bad.left_out))

    def _take(self, index: Index) -> None:
        for split, opened in self._opened.items():
            for source, stamp in zip(opened, index.stamps[split], strict=True):
                check_stamp(source.file.given, source.file.stamp, stamp)
        self._sets = dict(index.sets)
        self._bad.left_out |= index.left_out

    def fingerprint(self) -> dict[str, dict[str, str]]:
        """The sha256 of each file, by split and file name. Media that rows name by path do not count."""
        return {
            split.value: {source.file.given: sha256(source.file.path) for source in opened}
            for split, opened in self._opened.items()
        }

    def reject(self, unfit: Callable[[Problem], str | None]) -> None:
        """From now on, treat rows as bad if `unfit` gives a reason against their problem, such as a prompt too long."""
        self._unfit = unfit

    def ask(self, counts: Mapping[Split, int]) -> None:
        """Set how many problems of validation and test `try_asked` tries."""
        self._asked = counts

    def try_asked(self) -> None:
        """Try the problems of validation and test that will be asked, media included. Bad rows leave their split.

        Raises DataError if too few are left.
        """
        for split, count in self._asked.items():
            self._leave_out_bad(split, count)

    def _leave_out_bad(self, split: Split, count: int) -> None:
        """Try the rows of a split until `count` are sound, and leave out those that are not."""
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
            raise DataError(
                f"branches.{self.name}.task: {found} sound rows are left for {split.value}, {count} are asked for; "
                f"`copd data check` lists the bad ones; mend them, or ask for {found} at most in {SIZES[split]}"
            )
        self._sets[split] = self._sets[split].chosen(sound_n)

    def problem(self, split: Split, index: int) -> Problem:
        """The problem with this index. Raises DataError naming file and line for a row found bad only now.

        If bad rows are skipped, the next row in file order replaces a bad training row. In validation and test it would
        be counted twice, so there the bad row is an error.
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
                        f"{where}: {error}; remove the row: no other row of {split.value} may take its place"
                    ) from None
        raise DataError(f"branches.{self.name}.task: every row of {split.value} is bad")

    def in_file_order(self, split: Split, places: range | None = None) -> Iterator[tuple[int, Problem | BadRow]]:
        """The rows of a split at these places, by default all: the place, and the problem or why the row is bad."""
        for at in range(self.size(split)) if places is None else places:
            try:
                problem = self._problem(split, at)
            except BadRow as error:
                yield at, error
            else:
                yield at, problem

    def meet(self, split: Split, at: int, why: BadRow) -> None:
        """Count a row as bad. Raises DataError naming its file and line if the policy does not leave it out."""
        self._bad.meet(self.where(split, at), why)

    def sources(self, split: Split) -> list[Source]:
        """The files of a split. A split that was cut from the training files has none."""
        return self._opened.get(split, self._opened[Split.TRAIN])

    def with_cut_rows(self, places: Sequence[int]) -> list[tuple[RowFile, list[int]]]:
        """Each training file with the positions of its training rows at these places, and of all rows cut off.

        If these rows were the training files, the same validation and test rows would be cut from them.
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
        images, videos, rates = load_media(row, source.file.root, self.settings.media, self.where(split, at))
        problem = Problem(
            id=self._id_of(row, source, split, at),
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

    def _id_of(self, row: Row, source: Source, split: Split, at: int) -> str:
        """The id of a row; among several files it begins with the file, since each may count from 0."""
        if row.id is None:
            return self.where(split, at)
        return row.id if len(self.sources(split)) == 1 else f"{source.file.given}#{row.id}"

    def _source(self, split: Split, at: int) -> Source:
        return self.sources(split)[self._sets[split].file_n[at]]

    def _order(self, epoch: int) -> np.ndarray:
        """The order of the training rows in an epoch."""
        if epoch not in self._orders:
            while len(self._orders) >= KEPT_ORDERS:
                self._orders.popitem(last=False)
            self._orders[epoch] = np.random.default_rng((self._seed, epoch)).permutation(self.size(Split.TRAIN))
        return self._orders[epoch]


def index_rows(
    sources: Sequence[Source],
    rules: RowRules,
    refuse: Callable[[str, BadRow], None],
    look: Callable[[Row, DataRoot], None] = lambda row, root: None,
) -> RowSet:
    """The sound rows of some files. `refuse` gets FILE:LINE and the reason of each other row.

    `look` gets each row whose media are there, and where paths in it start. It may raise BadRow. A row with the id of
    an earlier row of its file is refused last. Raises whatever `refuse` raises, and DataError if a file as a whole
    cannot be read.
    """
    index = RowIndex()
    for number, source in enumerate(sources):
        for line, position, raw in source.file.scan():
            try:
                row = source.row(raw, rules)
                find_media(row, source.file.root)
                look(row, source.file.root)
            except BadRow as error:
                refuse(f"{source.file.given}:{line}", error)
            else:
                index.add(number, line, position, row)
    repeated = []
    for again, first in index.repeated():
        where, other = (f"{sources[number].file.given}:{line}" for number, line in map(index.place, (again, first)))
        refuse(where, BadRow(f"has the id of {other}"))
        repeated.append(again)
    return index.rows(repeated)


def find_media(row: Row, root: DataRoot) -> None:
    """Raise BadRow for a path that may not be used or leads to no file. Nothing is decoded."""
    for what, references in (("image", row.images), ("video", row.videos)):
        for reference in references:
            for one in reference if isinstance(reference, tuple) else (reference,):
                if isinstance(one, str):
                    try:
                        root.find(one)
                    except BadRow as error:
                        raise BadRow(f"{what} {named(one)}: {error}") from None
