"""The map of `copd advise`, from the committed results and pilots of the studies (`make docs`).

A study is a folder with main.yaml, its results and the pilots of studies/pilots.py. One without results or without
pilots is no point of the map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from copd.arms.advice_map import MAP
from copd.arms.comparison import Comparison, read_comparison
from copd.arms.outcomes import Outcome, read_outcomes
from copd.arms.search import chosen_file, read_chosen
from copd.measure.evaluate import AVERAGE
from copd.recipe.reading import recipe_data
from copd.types import MIXED

ROOT = Path(__file__).parent.parent
STUDIES = {read_comparison(file).title: file for file in sorted((ROOT / "studies").glob("*/main.yaml"))}
"""The points by their names; the first study searched its settings."""
METHODS = ("one_cycle", "replay", "cycles", "copd_dense", "copd_paper")
"""The arms that may be advised; `mixed` is what each is held against."""
OF_A_METHOD = ("method", "schedule", "merge", "opd", "topology")
"""The sections of a recipe that make its method."""
RATE = "learning_rate"
PILOTS = "pilots"


def point(name: str, file: Path) -> dict[str, Any] | None:
    """A point of the map: its pilots, and for each method its lead over mixed RLVR with the same seed."""
    outcomes = [o for o in read_outcomes(file.parent / "results") if o.account == "rollouts"]
    pilots = [json.loads(path.read_text("utf-8")) for path in sorted((file.parent / PILOTS).glob("seed-*.json"))]
    leads = {method: found for method in METHODS if (found := leads_of(method, outcomes))}
    if not pilots or not leads:
        return None
    return {"name": name, "rollouts": read_comparison(file).rollouts, "pilots": pilots, "leads": leads}


def leads_of(method: str, outcomes: Sequence[Outcome]) -> list[float]:
    """Average accuracy of a method less that of mixed RLVR, for each seed in which both answered the same problems."""
    mixed = {(o.seed, str(o.problems)): o.accuracy(AVERAGE) for o in outcomes if o.arm == MIXED}
    own = {(o.seed, str(o.problems)): o.accuracy(AVERAGE) for o in outcomes if o.arm == method}
    return [round(own[asked] - mixed[asked], 5) for asked in own if asked in mixed]


def overrides(file: Path) -> dict[str, dict[str, Any]]:
    """For each method the overrides of its arm, with what the study's search has chosen.

    All that makes a method is among them: the recipe that is advised may have other sections than the study's. Learning
    rates are not, since they belong to the study's model.
    """
    comparison: Comparison = read_comparison(file)
    chosen = read_chosen(file, comparison) if chosen_file(file).is_file() else {}
    world = recipe_data(comparison.recipe)
    common = {name: world[name] for name in OF_A_METHOD if name in world}
    return {
        method: without_rates({**common, **comparison.arms[method], **chosen.get(method, {})})
        for method in METHODS
        if method in comparison.arms
    }


def without_rates(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides without those of a learning rate."""
    kept = {path: value for path, value in changes.items() if path.rpartition(".")[2] != RATE}
    return {path: without_rates(value) if isinstance(value, dict) else value for path, value in kept.items()}


def drawn(studies: dict[str, Path]) -> str:
    """The map as text; the first study says how each method is made."""
    points = [found for name, file in studies.items() if (found := point(name, file))]
    made = overrides(next(iter(studies.values()))) if points else {}
    return json.dumps({"overrides": made, "points": points}, indent=1) + "\n"


if __name__ == "__main__":
    MAP.write_text(drawn(STUDIES), encoding="utf-8")
