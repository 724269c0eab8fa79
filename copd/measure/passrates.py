"""Pass rates of rows: which rows a filter keeps, and what it reports of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

SHOWN = 3
"""How many places are reported for each kind of row that is left out."""


@dataclass
class PassRates:
    """How many rows were answered rightly always, never and sometimes, in `samples` responses each, and where some are.

    `kept` holds the places, among the rows, of those that were right sometimes; all but `beyond` of them after
    `keep_at_most`.
    """

    samples: int
    kept: list[int] = field(default_factory=list)
    always: int = 0
    never: int = 0
    failures: int = 0
    beyond: int = 0
    always_at: list[str] = field(default_factory=list)
    never_at: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All rows that were answered."""
        return len(self.kept) + self.beyond + self.always + self.never

    def add(self, place: int, right: int, where: str) -> None:
        """Count a row with `right` right answers. `where` is its file and line."""
        if 0 < right < self.samples:
            self.kept.append(place)
        elif right:
            self.always += 1
            self.always_at = [*self.always_at, where][:SHOWN]
        else:
            self.never += 1
            self.never_at = [*self.never_at, where][:SHOWN]

    def keep_at_most(self, most: int | None, seed: int) -> None:
        """Keep `most` of the kept rows, by a hash of the seed and each row's place; None keeps all."""
        chosen = sorted(self.kept, key=lambda place: sha256(f"{seed}/{place}".encode()).digest())[:most]
        self.beyond += len(self.kept) - len(chosen)
        self.kept = sorted(chosen)

    def summary(self) -> list[str]:
        """The result, one line for each kind of row, with advice."""
        lines = [f"{self.rows} rows, {self.samples} samples each"]
        of = f" of {len(self.kept) + self.beyond}, chosen by seed and place" if self.beyond else ""
        lines.append(f"  kept, sometimes right: {len(self.kept)}{of}")
        if self.always:
            lines.append(f"  left out, always right: {self.always}, such as {', '.join(self.always_at)}: already known")
        if self.never:
            lines.append(
                f"  left out, never right: {self.never}, such as {', '.join(self.never_at)}: too hard for this model, "
                "or a wrong answer, or an unsuitable verifier; look at some"
            )
        if self.failures:
            lines.append(f"  {self.failures} responses could not be graded and count as wrong")
        return lines
