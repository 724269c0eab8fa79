"""The ledger: the cost of each branch in each phase, and the time of the run if all branches ran at once."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

Counts = Mapping[str, float]
ACTIVITIES = ("collect_seconds", "score_seconds", "update_seconds")


class Ledger:
    """Sums by branch and phase, from the branches' own counts. `as_record` gives the record that restores it."""

    def __init__(self, record: Mapping[str, Any] | None = None) -> None:
        record = record or {}
        self.spent: dict[str, dict[str, dict[str, float]]] = record.get("spent", {})
        self.critical_path: dict[str, float] = record.get("critical_path", {})
        self._seen: dict[str, dict[str, float]] = {branch: dict(c) for branch, c in record.get("seen", {}).items()}

    def of(self, branches: Collection[str]) -> Ledger:
        """The cost of some of the branches, as if they had been alone.

        For all branches this has the critical path that was booked. The critical path of fewer branches was not booked:
        it is replaced by its lower bound, the seconds of the slowest of them in each phase.
        """
        record = self.as_record()
        spent, seen = ({name: record[part][name] for name in branches} for part in ("spent", "seen"))
        path = record["critical_path"]
        if spent.keys() != self.spent.keys():
            path = {phase: max(_seconds(own.get(phase, {})) for own in spent.values()) for phase in path}
        return Ledger({"spent": spent, "seen": seen, "critical_path": path})

    def add(self, phase: str, counts: Mapping[str, Counts], *, meet_within: bool) -> None:
        """Book what the branches have spent since the last call under `phase`.

        The critical path grows by the seconds of the slowest branch. If branches wait for each other between the
        activities of the one step that is booked (`meet_within`), it grows by those of the slowest branch in each
        activity.
        """
        fresh = {
            branch: {name: value - self._seen.get(branch, {}).get(name, 0) for name, value in spent.items()}
            for branch, spent in counts.items()
        }
        for branch, spent in fresh.items():
            booked = self.spent.setdefault(branch, {}).setdefault(phase, {})
            for name, value in spent.items():
                booked[name] = booked.get(name, 0) + value
        if meet_within:
            seconds = sum(max(spent[name] for spent in fresh.values()) for name in ACTIVITIES)
        else:
            seconds = max(map(_seconds, fresh.values()))
        self.critical_path[phase] = self.critical_path.get(phase, 0) + seconds
        self._seen = {branch: dict(spent) for branch, spent in counts.items()}

    def as_record(self) -> dict[str, Any]:
        """The whole ledger as plain values, which the constructor takes again."""
        return copy.deepcopy({"spent": self.spent, "critical_path": self.critical_path, "seen": self._seen})


def _seconds(spent: Counts) -> float:
    """Seconds of all activities."""
    return sum(spent.get(name, 0.0) for name in ACTIVITIES)
