"""`copd advise`: a short pilot, and what the map of the study favours where it lies."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from statistics import fmean

from copd.arms.advice_map import AdviceMap, Coordinates, coordinates_of, read_map
from copd.arms.comparison import Changes, as_overrides
from copd.assemble.plan import make_plan
from copd.commands.pilot import PilotSettings, run_pilot
from copd.errors import RecipeError
from copd.measure.evaluate import Accuracy, Estimate, tabulate
from copd.measure.pilot import Pilot
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.types import MIXED

FAR = 2.0
"""Spreads of the map's features beyond which its nearest point is no neighbour."""
SHOWN = 3
"""Points of the map that are named."""


def advise(recipe: Recipe, settings: PilotSettings) -> tuple[list[Accuracy], list[str]]:
    """Make the pilot; return the accuracies of base, branches and their mean, and the advice line by line.

    Raises RecipeError for a recipe of one branch, or without a plan, before anything is sampled.
    """
    rollouts, known = make_plan(recipe).rollouts, read_map()
    if not known.points:
        settings.tell("the map has no points yet: the pilot's numbers are told, and no method is advised")
    pilot, answers = run_pilot(recipe, settings)
    return tabulate(answers, ()), [*told_numbers(pilot), *told_advice(known, pilot, recipe, rollouts)]


def told_numbers(pilot: Pilot) -> Iterator[str]:
    """The pilot's numbers, one a line, each with its meaning."""
    hidden = "not told: noise hides it, or branches are adapters" if pilot.cosine is None else f"{pilot.cosine:+.2f}"
    yield f"gain: {_points(pilot.gain)}: each branch in its own capability, less the base"
    yield f"harm: {_points(pilot.harm)}: what training on another capability costs"
    yield f"gap: {_points(pilot.gap)}: each branch in its own capability, less the mean of all branches' weights"
    yield f"cosine of gradients: {hidden}: below 0, a step for one capability undoes one for another"
    yield f"overlap: {pilot.overlap:.3f}, symmetric KL {pilot.symmetric_kl:.4f} nats: of two branches after the pilot"
    yield f"groups without signal: {pilot.no_signal:.0%}: all rewards equal, so GRPO learns nothing from them"


def told_advice(known: AdviceMap, pilot: Pilot, recipe: Recipe, rollouts: int) -> Iterator[str]:
    """What the map favours at the pilot's place, by how much, by which of its points, and what would change it."""
    if not known.points:
        yield "the map has no points yet, so nothing is advised"
        return
    place = coordinates_of(pilot, rollouts)
    favoured = known.favoured(place)
    yield from _told_choice(known, place, favoured)
    yield from _told_command(known, favoured, recipe, rollouts)
    for method in known.methods:
        if method not in (MIXED, favoured):
            yield f"  {method}: {_points(known.lead(method, place))} over {MIXED}"
    weights = known.weights(place)
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[:SHOWN]
    yield "by the map's points: " + ", ".join(f"{known.points[i].name} ({weights[i]:.0%})" for i in order)
    nearest = min(known.distance(place, point.place) for point in known.points)
    if nearest > FAR:
        yield f"these points are far: {nearest:.1f} spreads of the map away; take the advice for a guess"
    if known.points[0].pilots[0].steps != pilot.steps:
        yield f"the map's pilots had {known.points[0].pilots[0].steps} steps, this one {pilot.steps}: not comparable"
    changes = [*known.turns(place), *filter(None, [known.elsewhere(place)])]
    yield "what would change the answer: " + ("; ".join(changes) or f"nothing on the map, where {favoured} is best")


def _told_choice(known: AdviceMap, place: Coordinates, favoured: str) -> Iterator[str]:
    if favoured == MIXED:
        yield f"favoured: {MIXED}; no method of the map is expected to be better"
        return
    lead = known.lead(favoured, place)
    unsure = "" if lead.low > 0 else f"; the interval holds 0, and {MIXED} is simpler"
    yield f"favoured: {favoured}; expected {_points(lead)} over {MIXED} at equal rollouts{unsure}"


def _told_command(known: AdviceMap, favoured: str, recipe: Recipe, rollouts: int) -> Iterator[str]:
    """The command that trains a recipe by a method, with as many rollouts as the recipe has."""
    made = {"method": MIXED} if favoured == MIXED else fitted({**known.overrides[favoured]}, list(recipe.branches))
    words = as_overrides({**made, "budget.rollouts": rollouts})
    yield f"  copd train RECIPE {shlex.join(words)}"
    try:
        make_plan(load_recipe(recipe.model_dump(mode="json"), words))
    except RecipeError as error:
        yield f"  this recipe does not take it as it stands: {error}"


def fitted(changes: Changes, branches: Sequence[str]) -> Changes:
    """A method's overrides for these branches, of which the first is in the place of the hub of the map's edges.

    Edges that share out a weight of at most 1 among the hub's teachers share out as much; others each weigh the same.
    """
    edges = changes.get("topology", {}).get("edges", ())
    if not edges:
        return changes
    hub, *spokes = branches
    taught, teaches = (
        [e["weight"] for e in edges if e[side] == edges[0]["student"]] for side in ("student", "teacher")
    )
    shared = len(spokes) if sum(taught) <= 1 else len(taught)
    to_hub = [{"student": hub, "teacher": name, "weight": round(sum(taught) / shared, 4)} for name in spokes]
    from_hub = [{"student": name, "teacher": hub, "weight": fmean(teaches)} for name in spokes]
    return {**changes, "topology": {"kind": "edges", "edges": [*to_hub, *from_hub]}}


def _points(estimate: Estimate) -> str:
    value, low, high = (f"{100 * share:+.1f}" for share in vars(estimate).values())
    return f"{value} points [{low}, {high}]"
