"""What a file of rows holds, found without a recipe: kinds, answers, and how it would be cut into splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from copd.errors import BadRow, DataError
from copd.rows.formats import REQUIRED, Row
from copd.rows.index import RowSet, cut
from copd.rows.media import DataRoot
from copd.rows.notes import count_notes
from copd.rows.opening import Settings, Source, open_files
from copd.rows.pixels import load_media
from copd.rows.rows import index_rows
from copd.types import Split

FORMULA = re.compile(r"[\\^_={}<>]|\d\s*[a-zA-Z(]")
"""What formulas and quantities hold, and words do not."""
TENTH, FIFTH, WIDEST = 0.1, 0.2, 0.3
"""The most that a large file, and a small one, gives to validation and to test; the last if a split stays empty."""
WANTED = 40
"""Rows of validation and of test for which a small file gives more than a tenth."""

Readers = Mapping[str, Callable[[str], bool]]
"""By verifier, whether it can read an answer."""


@dataclass
class Survey:
    """The rows of a file. `readable`: how many rows without a verifier have an answer that each verifier can read.

    `unnamed` counts the rows that name no verifier, `formulas` those whose answers look like formulas. `unread` is the
    first answer of a row without a verifier that a verifier cannot read, by verifier. `first_bad` is FILE:LINE and the
    reason of the first bad row, `columns` what of the file is read as prompt and answer. `answers` holds two different
    answers, or the only one.
    """

    file: str
    bad: int = 0
    first_bad: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    readable: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    formulas: int = 0
    unread: dict[str, str] = field(default_factory=dict)
    columns: str = ""
    answers: set[str] = field(default_factory=set)
    sound: RowSet | None = None

    @property
    def rows(self) -> int:
        """The number of sound rows."""
        return 0 if self.sound is None else len(self.sound)

    def share(self, most: int) -> tuple[float, dict[Split, int]]:
        """A share of the rows for validation and for test, and the rows of each split.

        Each gets about `most` rows, at most a tenth of a large file and a fifth of a small one. Raises DataError if
        there are so few rows that a split stays empty.
        """
        assert self.sound is not None
        greatest = max(TENTH, min(FIFTH, WANTED / self.rows))
        for share in (round(min(greatest, most / self.rows), 4), FIFTH, WIDEST):
            sets = cut(self.sound, {Split.VALIDATION: share, Split.TEST: share})
            if all(map(len, sets.values())):
                return share, {split: len(rows) for split, rows in sets.items()}
        raise DataError(
            f"{self.file}: {self.rows} sound rows cannot be cut into train, validation and test, each with one at "
            "least; give more rows. Rows of the same text, or of the same pictures, stay together; "
            f"{len(set(self.sound.key_n.tolist()))} differ"
        )


def survey(file: str, settings: Settings, unnamed: str, readers: Readers) -> Survey:
    """Read a whole file. `unnamed` is the verifier that `settings` give to rows that name none.

    Of each kind, pictures and videos are opened until those of one row are sound; the rows before it are bad. Raises
    DataError if the file cannot be read, or holds no sound row.
    """
    found = Survey(file)

    def refuse(where: str, why: BadRow) -> None:
        found.bad += 1
        found.first_bad = found.first_bad or f"{where}: {why}"

    def look(row: Row, root: DataRoot) -> None:
        if row.kind not in found.kinds:
            load_media(row, root, settings.media, file)
        found.kinds[row.kind] += 1
        count_notes(found.notes, row, settings.media)
        if len(found.answers) < 2:
            found.answers.add(row.answer)
        if row.verifier == unnamed:
            found.unnamed += 1
            found.formulas += bool(FORMULA.search(row.answer))
            for name, reads in readers.items():
                if reads(row.answer):
                    found.readable[name] += 1
                else:
                    found.unread.setdefault(name, row.answer)

    sources = open_files([file], Split.TRAIN.value, settings)
    found.columns = _columns(sources[0])
    found.sound = index_rows(sources, settings.rules, refuse, look)
    if not found.rows:
        told = f"no sound row; the first bad one is {found.first_bad}" if found.bad else "has columns but no row"
        raise DataError(f"{file}: {told}")
    return found


def _columns(source: Source) -> str:
    """The columns of prompt and answer, each with our name if that is another."""
    theirs = {ours: source.names.get(ours, ours) for ours in REQUIRED[source.format]}
    return ", ".join(name if name == ours else f"{name} as {ours}" for ours, name in theirs.items())
