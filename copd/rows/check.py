"""Checks of files of rows: every bad row with its reason, in bounded memory, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from copd.errors import BadRow
from copd.rows.index import RowIndex
from copd.rows.opening import Settings, Source
from copd.rows.rows import find_media, load_media

UNNAMED = "(none named)"
"""Stands for the verifier of rows that name none, if no recipe gives a default."""


@dataclass
class Report:
    """The number of rows, of bad rows, and of sound rows by kind of prompt and by verifier.

    A row that is bad only because its id occurs twice also counts as sound.
    """

    formats: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    bad: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    verifiers: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """The report in one line."""
        files = ", ".join(f"{file} ({name})" for file, name in self.formats.items())
        kinds, verifiers = (
            ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
            for counts in (self.kinds, self.verifiers)
        )
        return f"{files}: {self.rows} rows, {self.bad} bad; kinds: {kinds}; verifiers: {verifiers}"


def check_rows(
    sources: Sequence[Source],
    settings: Settings,
    *,
    media: bool,
    say: Callable[[str], None],
    most: int | None = None,
) -> Report:
    """Check every row of some files. `say` gets `FILE:LINE: REASON` of each bad row, or of the first `most`.

    With `media` images and videos are decoded; without it their files are only looked for. Repeated ids are reported
    last. Raises DataError if a file as a whole cannot be read.
    """
    report, index = Report({source.file.given: source.format for source in sources}), RowIndex()

    def refuse(where: str, why: BadRow) -> None:
        report.bad += 1
        if most is None or report.bad <= most:
            say(f"{where}: {why}")

    for number, source in enumerate(sources):
        for line, position, raw in source.file.scan():
            report.rows += 1
            try:
                row = source.row(raw, settings.rules)
                find_media(row, source.file.root)
                if media:
                    load_media(row, source.file.root, settings.media)
            except BadRow as error:
                refuse(f"{source.file.given}:{line}", error)
            else:
                index.add(number, line, position, row)
                report.kinds[row.kind] += 1
                report.verifiers[row.verifier] += 1
    for again, first in index.repeated():
        where = [f"{sources[n].file.given}:{line}" for n, line in map(index.place, (again, first))]
        refuse(where[0], BadRow(f"has the id of {where[1]}"))
    if most is not None and report.bad > most:
        say(f"and {report.bad - most} more")
    return report
