"""`copd plan` of a comparison: what each of its jobs asks for with one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from copd.arms.comparison import read_comparison
from copd.arms.jobs import Job
from copd.commands.compare import Order, plan_of
from copd.commands.plan import Cards, Planned, examine
from copd.costs.workload import Speed
from copd.schedule import Phase


@dataclass(frozen=True)
class ArmNeeds:
    """What one job asks for; its `name` is its arm's.

    `hours` until it ends are None without a speed. `most`: bytes of its fullest card. `rollouts` are those of training,
    `sampled` tokens those of evaluation too; both leave out what experts made that it takes over.
    """

    name: str
    cards: int
    most: int
    overfull: bool
    rollouts: float
    sampled: float
    hours: float | None

    @property
    def card_hours(self) -> float | None:
        """Hours that the job holds its cards."""
        return None if self.hours is None else self.hours * max(1, self.cards)


def arms_planned(file: Path, changes: Sequence[str], cards: Cards, speed: Speed | None) -> list[ArmNeeds]:
    """The jobs of a comparison's test with one seed, in the order in which they run.

    Raises RecipeError for a comparison that cannot run, or whose search has not chosen yet, DataError or
    ModelFolderError for its data or model.
    """
    search = read_comparison(file).search
    seed = next(seed for seed in count() if search is None or seed not in search.seeds)
    _, jobs = plan_of(Order(file, (seed,), Path(), None, lambda _: None, changes=changes), search=False)
    found: list[ArmNeeds] = []
    known: Planned | None = None
    for job in jobs:
        recipe = job.recipe
        alike = known is not None and (known.recipe.model, known.recipe.branches) == (recipe.model, recipe.branches)
        known = replace(known, recipe=recipe) if known is not None and alike else examine(recipe, cards)
        found.append(_of(job, known, speed))
    return found


def _of(job: Job, planned: Planned, speed: Speed | None) -> ArmNeeds:
    schedule = planned.plan.schedule
    taken = schedule.steps_before_exchange / schedule.steps_in(Phase.RLVR) if job.needs else 0.0
    parts = [(row, 1 - taken if row.name == Phase.RLVR.value else 1.0) for row in planned.rows(speed)[:-1]]
    return ArmNeeds(
        job.arm or job.name.partition("/")[0],
        len(planned.most),
        max(planned.most.values(), default=0),
        bool(planned.overfull),
        sum(share * row.work.rollouts for row, share in parts if row.steps is not None),
        sum(share * row.work.sampled for row, share in parts),
        None if speed is None else sum(share * (row.hours or 0.0) for row, share in parts),
    )
