"""The map of `copd advise`: pilots in worlds in which every method was run, and by how much each led mixed RLVR.

A prediction is a mean over the map's points, in which near points weigh more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from copd.errors import RecipeError, wrong_in
from copd.maths.intervals import Z95
from copd.measure.evaluate import Estimate
from copd.measure.pilot import Pilot
from copd.types import MIXED

MAP = Path(__file__).parent.parent / "assets" / "advice" / "map.json"
SCANNED = 60
"""Values of a feature, over the range of the map, at which the choice is looked at again."""


@dataclass(frozen=True)
class Feature:
    """A number by which two places are near or far: its value for a pilot and a budget, and how people write it."""

    name: str
    value: Callable[[Pilot, int], float | None]
    written: Callable[[float], str]


def _in_points(value: float) -> str:
    return f"{100 * value:.1f} points"


FEATURES = (
    Feature("harm to other capabilities", lambda pilot, _: pilot.harm.value, _in_points),
    Feature("gap between branches and their mean", lambda pilot, _: pilot.gap.value, _in_points),
    Feature("cosine of gradients", lambda pilot, _: pilot.cosine, lambda value: f"{value:.2f}"),
    Feature("rollouts in all", lambda _, rollouts: math.log10(rollouts), lambda value: f"{10**value:,.0f}"),
)
Coordinates = tuple[float | None, ...]
"""The value of each feature; None where a pilot could not tell it."""


def coordinates_of(pilot: Pilot, rollouts: int) -> Coordinates:
    """Where a pilot with a budget lies."""
    return tuple(feature.value(pilot, rollouts) for feature in FEATURES)


@dataclass(frozen=True)
class Point:
    """A world at a budget: its pilots, one a seed, and the lead of each method over mixed RLVR, seed by seed."""

    name: str
    rollouts: int
    pilots: tuple[Pilot, ...]
    leads: Mapping[str, tuple[float, ...]]

    @cached_property
    def place(self) -> Coordinates:
        """The mean of each feature over the pilots that could tell it."""
        columns = zip(*(coordinates_of(pilot, self.rollouts) for pilot in self.pilots), strict=True)
        told = [[value for value in column if value is not None] for column in columns]
        return tuple(fmean(values) if values else None for values in told)

    def lead(self, method: str) -> float:
        """The mean lead of a method; 0 for mixed RLVR itself."""
        return 0.0 if method == MIXED else fmean(self.leads[method])

    def variance(self, method: str) -> float:
        """The squared standard error of the mean lead; 0 for mixed RLVR and where one seed tells nothing of it."""
        values = self.leads.get(method, ())
        return 0.0 if len(values) < 2 else pstdev(values) ** 2 / (len(values) - 1)


@dataclass(frozen=True)
class AdviceMap:
    """The points, and for each method the overrides that make it."""

    points: tuple[Point, ...]
    overrides: Mapping[str, Mapping[str, Any]]

    @property
    def methods(self) -> tuple[str, ...]:
        """Mixed RLVR, and those that every point has."""
        shared = [name for name in self.overrides if all(name in point.leads for point in self.points)]
        return (MIXED, *shared)

    @cached_property
    def scale(self) -> tuple[float, ...]:
        """The spread of each feature over the points; 0 where they do not differ."""
        columns = zip(*(point.place for point in self.points), strict=True)
        told = [[value for value in column if value is not None] for column in columns]
        return tuple(pstdev(values) if len(values) > 1 else 0.0 for values in told)

    def distance(self, first: Coordinates, second: Coordinates) -> float:
        """In spreads of the map's features; features that one of the two does not know are left out."""
        squares = [
            ((a - b) / spread) ** 2
            for a, b, spread in zip(first, second, self.scale, strict=True)
            if spread and a is not None and b is not None
        ]
        return math.sqrt(math.fsum(squares))

    def weights(self, place: Coordinates) -> list[float]:
        """How much each point says about a place: a normal kernel of one spread; they sum to 1."""
        distances = [self.distance(place, point.place) for point in self.points]
        nearest = min(distances)
        raw = [math.exp((nearest**2 - distance**2) / 2) for distance in distances]
        return [each / math.fsum(raw) for each in raw]

    def lead(self, method: str, place: Coordinates) -> Estimate:
        """The expected lead over mixed RLVR, with a 95 % interval: seeds of the points, and points among themselves."""
        weights = self.weights(place)
        leads = [point.lead(method) for point in self.points]
        mean = math.fsum(w * lead for w, lead in zip(weights, leads, strict=True))
        between = math.fsum(w * (lead - mean) ** 2 for w, lead in zip(weights, leads, strict=True))
        within = math.fsum(w**2 * point.variance(method) for w, point in zip(weights, self.points, strict=True))
        half = Z95 * math.sqrt(between + within)
        return Estimate(mean, mean - half, mean + half)

    def favoured(self, place: Coordinates) -> str:
        """The method with the greatest expected lead; of equal ones the first."""
        return max(self.methods, key=lambda method: self.lead(method, place).value)

    def turns(self, place: Coordinates) -> list[str]:
        """For each feature the nearest value, all others as they are, at which another method would be favoured."""
        found, now = [], self.favoured(place)
        for number, feature in enumerate(FEATURES):
            here = place[number]
            known = [point.place[number] for point in self.points]
            values = [value for value in known if value is not None]
            if here is None or not values or min(values) == max(values):
                continue
            low, high = min(values), max(values)
            scanned = [low + (high - low) * i / SCANNED for i in range(SCANNED + 1)]
            for value in sorted(scanned, key=lambda value: abs(value - here)):
                if (other := self.favoured((*place[:number], value, *place[number + 1 :]))) != now:
                    values_told = f"{feature.written(value)} instead of {feature.written(here)}"
                    found.append(f"{other} with {feature.name} of {values_told}")
                    break
        return found

    def elsewhere(self, place: Coordinates) -> str | None:
        """The nearest point at which another method is favoured, with its features; None if there is none."""
        now = self.favoured(place)
        for point in sorted(self.points, key=lambda point: self.distance(place, point.place)):
            if (other := self.favoured(point.place)) != now:
                told = [
                    f"{feature.name} {feature.written(value)}"
                    for feature, value in zip(FEATURES, point.place, strict=True)
                    if value is not None
                ]
                return f"{other} in {point.name} ({', '.join(told)})"
        return None


def read_map(path: Path = MAP) -> AdviceMap:
    """The map that comes with copd. Raises RecipeError for a file that is no map."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(
            Point(
                point["name"],
                point["rollouts"],
                tuple(map(Pilot.from_record, point["pilots"])),
                {method: tuple(leads) for method, leads in point["leads"].items()},
            )
            for point in record["points"]
        )
        return AdviceMap(points, record["overrides"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: cannot be read as a map for advice: {wrong_in(error)}") from error
