"""Checks of files of rows: every bad row with its reason, in bounded memory, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from copd.errors import BadRow
from copd.rows.formats import Row
from copd.rows.media import DataRoot
from copd.rows.opening import Settings, Source
from copd.rows.rows import index_rows, load_media

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
    report = Report({source.file.given: source.format for source in sources})

    def refuse(where: str, why: BadRow) -> None:
        report.bad += 1
        if most is None or report.bad <= most:
            say(f"{where}: {why}")

    def look(row: Row, root: DataRoot) -> None:
        if media:
            load_media(row, root, settings.media)
        report.kinds[row.kind] += 1
        report.verifiers[row.verifier] += 1

    sound = index_rows(sources, settings.rules, refuse, look)
    report.rows = len(sound) + report.bad
    if most is not None and report.bad > most:
        say(f"and {report.bad - most} more")
    return report
