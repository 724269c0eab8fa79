"""Checks of files of rows: every bad row with its reason, in bounded memory, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from copd.errors import BadRow, visible
from copd.rows.formats import Row
from copd.rows.media import DataRoot
from copd.rows.notes import count_notes
from copd.rows.opening import Settings, Source
from copd.rows.pixels import load_media
from copd.rows.prompts import as_text
from copd.rows.rows import index_rows

ANSWERED = {"boxed": "\\boxed{{{}}}", "tag": "<answer>{}</answer>"}
"""A final answer in each form of `reward.answer_form`."""
SHOWN_LINES, SHOWN_CHARACTERS = 20, 200
"""Most lines of a prompt that are shown, and most characters of a line."""
UNNAMED = "(none named)"
"""Stands for the verifier of rows that name none, if no recipe gives a default."""


@dataclass
class Report:
    """The number of rows, of bad rows, and of sound rows by kind of prompt and by verifier.

    `notes` counts the rows of which something is read in another way than it stands there, or is not read. `first` is
    the first sound row. A row that is bad only because its id occurs twice also counts as sound.
    """

    formats: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    bad: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    verifiers: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    first: Row | None = None
    answer_form: str = "boxed"
    own: Collection[str] = ()

    def lines(self) -> list[str]:
        """The report: one line of counts, one for each note, and the first sound row with a right response to it."""
        return [
            self.summary(),
            *(f"  {count} rows: {note}" for note, count in sorted(self.notes.items())),
            *self._shown(),
        ]

    def _shown(self) -> list[str]:
        if self.first is None:
            return []
        asked = "\n".join(f"{message.role}: {as_text(message)}" for message in self.first.messages).splitlines()
        answer, verifier = self.first.answer, self.first.verifier
        right = f"a right response (verifier {verifier}) ends like {_short(ANSWERED[self.answer_form].format(answer))}"
        if verifier in self.own:
            right = f"verifier {verifier} gets the whole response, and as the answer {_short(answer)}"
        return [
            "  the first sound row, as a model is asked it:",
            *(f"    {_short(line)}" for line in asked[:SHOWN_LINES]),
            *(["    ..."] if len(asked) > SHOWN_LINES else []),
            f"  {right}",
        ]

    def summary(self) -> str:
        """The report in one line."""
        files = ", ".join(f"{file} ({name})" for file, name in self.formats.items())
        kinds, verifiers = (
            ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
            for counts in (self.kinds, self.verifiers)
        )
        return f"{files}: {self.rows} rows, {self.bad} bad; kinds: {kinds}; verifiers: {verifiers}"


def _short(text: str) -> str:
    return visible(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ...")


def check_rows(
    sources: Sequence[Source],
    settings: Settings,
    *,
    media: bool,
    say: Callable[[str], None],
    most: int | None = None,
    answer_form: str = "boxed",
) -> Report:
    """Check every row of some files. `say` gets `FILE:LINE: REASON` of each bad row, or of the first `most`.

    With `media` images and videos are decoded; without it their files are only looked for. Repeated ids are reported
    last. Raises DataError if a file as a whole cannot be read.
    """
    report = Report({source.file.given: source.format for source in sources}, answer_form=answer_form)
    report.own = settings.rules.own

    def refuse(where: str, why: BadRow) -> None:
        report.bad += 1
        if most is None or report.bad <= most:
            say(f"{where}: {why}")

    def look(row: Row, root: DataRoot) -> None:
        if media:
            load_media(row, root, settings.media, "")
        report.first = report.first or row
        count_notes(report.notes, row, settings.media)
        report.kinds[row.kind] += 1
        report.verifiers[row.verifier] += 1

    sound = index_rows(sources, settings.rules, refuse, look)
    report.rows = len(sound) + report.bad
    if most is not None and report.bad > most:
        say(f"and {report.bad - most} more")
    return report
