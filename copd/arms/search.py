"""The search of a comparison: every arm chooses among as many candidates, by validation problems and other seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from copd.arms.comparison import Changes, Comparison
from copd.arms.jobs import Job, candidate_name, searches_of
from copd.arms.outcomes import Outcome
from copd.errors import RecipeError
from copd.measure.evaluate import AVERAGE
from copd.recipe.strict_yaml import parse_yaml
from copd.system.files import replace_text

SEARCHED = "searched"
"""The field of a choice that tells which search has made it."""
HEAD = """\
# Chosen by `copd compare --search` on validation problems. Commit this file before the test seeds run.
"""


@dataclass(frozen=True)
class Choice:
    """The candidate of an arm with the best average validation accuracy over the search's seeds, and all averages."""

    arm: str
    changes: Changes
    averages: tuple[float, ...]

    def told(self) -> str:
        """The choice in one line."""
        listed = ", ".join(f"{100 * value:.1f}" for value in self.averages)
        return f"{self.arm}: chose {self.changes}; its candidates have validation averages of {listed} %"


def choose(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Choice]:
    """The choice of each arm that searches; of equal candidates the first."""
    assert comparison.search
    choices = []
    for arm, candidates in comparison.search.candidates.items():
        values = [
            [o.accuracy(AVERAGE) for o in outcomes if o.arm == candidate_name(arm, place)]
            for place in range(len(candidates))
        ]
        averages = tuple(sum(own) / len(own) for own in values)
        choices.append(Choice(arm, candidates[averages.index(max(averages))], averages))
    return choices


def chosen_file(file: Path) -> Path:
    """Where the choices of a comparison's search are."""
    return file.with_suffix(".chosen.yaml")


def write_chosen(path: Path, choices: Sequence[Choice], jobs: Sequence[Job]) -> None:
    """Write the choices, each with the averages of its candidates and a hash of what their `jobs` searched."""
    record = {
        choice.arm: {
            "changes": dict(choice.changes),
            "averages": [round(value, 4) for value in choice.averages],
            SEARCHED: _searched(choice.arm, jobs),
        }
        for choice in choices
    }
    replace_text(path, HEAD + yaml.safe_dump(record, sort_keys=False))


def _searched(arm: str, jobs: Sequence[Job]) -> str:
    """A hash of the candidates of an arm with all their settings, and of the seeds."""
    own = sorted(f"{job.fingerprint} {job.seed}" for job in jobs if job.arm and job.arm.rpartition(".")[0] == arm)
    return hashlib.sha256(" ".join(own).encode()).hexdigest()[:16]


def searched_otherwise(file: Path, comparison: Comparison) -> list[str]:
    """The arms whose choice is that of a search with other settings than the file asks for now.

    Of a choice that was written before it said what was searched, nothing is known, and it is taken as it is.
    """
    record = parse_yaml(chosen_file(file).read_text(encoding="utf-8"), str(chosen_file(file)))
    written = {arm: chosen[SEARCHED] for arm, chosen in record.items() if SEARCHED in chosen}
    if not written:
        return []
    try:
        jobs = searches_of(comparison)
    except RecipeError:  # a candidate that could be searched when the choice was made
        return list(written)
    return [arm for arm, searched in written.items() if searched != _searched(arm, jobs)]


def read_chosen(file: Path, comparison: Comparison) -> Mapping[str, Changes]:
    """What the search of a comparison has chosen. Raises RecipeError if it has not run, or chose among others."""
    assert comparison.search
    path = chosen_file(file)
    try:
        record: Any = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise RecipeError(
            f"{path}: missing; run `copd compare {file} --search` first, and commit what it chose"
        ) from error
    found = {}
    for arm, candidates in comparison.search.candidates.items():
        chosen = record.get(arm) if isinstance(record, dict) else None
        changes = chosen.get("changes") if isinstance(chosen, dict) else None
        if changes not in candidates:
            raise RecipeError(f"{path}: {arm}: {changes!r} is no candidate of {file}; run --search again")
        found[arm] = changes
    return found
