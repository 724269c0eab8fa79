"""The numbers of a run before it starts: branches, edges, steps, rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.schedule import TOLERATED, Batches, Costs, Phase, Schedule
from copd.topology import Edge, full, hub
from copd.types import MERGED, MIXED, STUDENT


@dataclass(frozen=True)
class Plan:
    """The method's branches, edges, steps and rollouts, derived from a recipe.

    RLVR phases train the branches in `learners`, OPD phases those in `students`. `product` names a branch, or MERGED
    for the merge of all. It is None if the method has no single product.
    """

    capabilities: tuple[str, ...]
    branches: tuple[str, ...]
    learners: tuple[str, ...]
    edges: tuple[Edge, ...]
    schedule: Schedule
    batches: Batches
    costs: Costs
    product: str | None = None
    students: tuple[str, ...] = ()

    @property
    def trained(self) -> dict[Phase, tuple[str, ...]]:
        """The branches that a step of each phase trains."""
        return {Phase.RLVR: self.learners, Phase.OPD: self.students}

    @property
    def rollouts(self) -> int:
        """R(method): all rollouts that make the model or models. Evaluation is not counted."""
        return self.costs.of(self.schedule)

    def step_cost(self, step: int) -> int:
        """Rollouts of one step of all branches. The time left is estimated in this unit."""
        return self.costs.opd_step if self.schedule.position(step).phase is Phase.OPD else self.costs.rl_step


def handovers(recipe: Recipe) -> tuple[int, ...]:
    """Numbers of steps after which another method of the same recipe would take over the experts of this run."""
    if recipe.method not in ("expert", "merge_only") or len(recipe.branches) < 2:
        return ()
    found = set()
    for method in ("copd", "static_opd", "mopd"):
        try:
            found.add(make_plan(recipe.model_copy(update={"method": method})).schedule.steps_before_opd)
        except RecipeError:  # this method cannot follow: a phase has no steps, or the budget does not fit it
            continue
    return tuple(sorted(steps for steps in found if 0 < steps <= make_plan(recipe).schedule.steps))


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a recipe: its own schedule for CoPD; for a baseline as many steps as CoPD's rollouts allow.

    With `budget.rollouts` every method, CoPD too, gets as many steps as that number allows (docs/method.md has each
    method's R). Raises RecipeError if whole steps cannot meet the budget, or if a phase that the method needs has no
    steps.
    """
    batches = Batches(
        recipe.sampling.prompts_per_step,
        recipe.sampling.rollouts_per_prompt,
        recipe.opd.prompts_per_step,
        recipe.opd.rollouts_per_prompt,
        recipe.opd.native,
    )
    asked = Schedule(recipe.schedule.cycles, recipe.schedule.rl_steps, recipe.schedule.opd_steps)
    compared = _copd(recipe, asked, batches)
    budget = recipe.budget.rollouts
    if recipe.method == "copd" and budget is None:
        return compared
    return PLANS[recipe.method](recipe, asked, batches, budget or compared.rollouts)


def _copd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int | None = None) -> Plan:
    """R = N (S_RL K P G + S_OPD ([K P G, with `opd.native`] + E P' G'))."""
    names = tuple(recipe.branches)
    edges = _edges(recipe) if len(names) > 1 and recipe.schedule.opd_steps else ()
    native = len(names) * batches.native
    costs = Costs(native, batches.native_in_opd * native + len(edges) * batches.per_edge)
    schedule = asked if rollouts is None else _scaled(recipe, costs, asked, rollouts)
    product = MERGED if len(names) > 1 else names[0]
    return Plan(names, names, names, edges, schedule, batches, costs, product, students=names)


def _expert(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = steps K P G, all experts together."""
    names = tuple(recipe.branches)
    costs = Costs(len(names) * batches.native, 0)
    schedule = _scaled(recipe, costs, Schedule(asked.cycles, 1, 0), rollouts)
    return Plan(names, names, names, (), schedule, batches, costs)


def _merge_only(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = steps K P G: experts, then their merge."""
    return replace(_expert(recipe, asked, batches, rollouts), product=MERGED)


def _mixed(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = steps B P G. B = K if `mixed.batch` is K_times, which makes the steps fewer and larger; else B = 1."""
    names = tuple(recipe.branches)
    size = len(names) if recipe.mixed.batch == "K_times" else 1
    large = replace(batches, prompts=size * batches.prompts)
    costs = Costs(large.native, 0)
    schedule = _scaled(recipe, costs, Schedule(asked.cycles, 1, 0), rollouts)
    return Plan(names, (MIXED,), (MIXED,), (), schedule, large, costs, MIXED)


def _static_opd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = S_E 2 P G + S_O (P' G' [+ P G with native GRPO]), with S_E : S_O = S_RL : S_OPD."""
    student, teacher = static_pair(recipe)
    batches = replace(batches, native_in_opd=recipe.static_opd.native)
    costs = Costs(2 * batches.native, batches.per_edge + batches.native_in_opd * batches.native)
    schedule = _scaled(recipe, costs, _two_stages(asked, recipe.method), rollouts)
    pair, edges = (student, teacher), (Edge(student, teacher, recipe.opd.weight),)
    return Plan(tuple(recipe.branches), pair, pair, edges, schedule, batches, costs, student, students=(student,))


def _mopd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = S_E K P G + S_O K P' G', with S_E : S_O = S_RL : S_OPD."""
    names, batches = tuple(recipe.branches), replace(batches, native_in_opd=False)
    costs = Costs(len(names) * batches.native, len(names) * batches.per_edge)
    schedule = _scaled(recipe, costs, _two_stages(asked, recipe.method), rollouts)
    edges = tuple(Edge(STUDENT, name, recipe.opd.weight) for name in names)
    return Plan(names, (*names, STUDENT), names, edges, schedule, batches, costs, STUDENT, students=(STUDENT,))


PLANS: dict[str, Callable[[Recipe, Schedule, Batches, int], Plan]] = {
    "copd": _copd,
    "expert": _expert,
    "mixed": _mixed,
    "static_opd": _static_opd,
    "mopd": _mopd,
    "merge_only": _merge_only,
}


def _scaled(recipe: Recipe, costs: Costs, schedule: Schedule, rollouts: int) -> Schedule:
    """The schedule scaled to this number of rollouts. Raises RecipeError if it misses a budget that the recipe sets."""
    if recipe.budget.rollouts is not None and not costs.meet(schedule, rollouts):
        made = costs.of(costs.scaled(schedule, rollouts))
        each, fewer = ("cycle", "lower schedule.cycles or ") if schedule.cycles > 1 else ("run", "")
        raise RecipeError(
            f"budget.rollouts: method {recipe.method} cannot meet {rollouts:,}: whole steps, at least one of each "
            f"phase a {each}, come to {made:,} at best, which is more than {1 / TOLERATED:.0%} away. Set {made:,}, or "
            f"{fewer}lower the prompts and rollouts of a step"
        )
    return costs.scaled(schedule, rollouts)


def static_pair(recipe: Recipe) -> tuple[str, str]:
    """Student and teacher of `static_opd`: the first two branches unless the recipe names them."""
    first, second = list(recipe.branches)[:2]
    settings = recipe.static_opd
    student = settings.student or (second if settings.teacher == first else first)
    return student, settings.teacher or (second if student == first else first)


def _two_stages(asked: Schedule, method: str) -> Schedule:
    """All RLVR first, then all OPD."""
    if not asked.rl_steps or not asked.opd_steps:
        raise RecipeError(f"schedule: method {method} needs rl_steps and opd_steps above 0: experts, then distillation")
    return Schedule(1, asked.cycles * asked.rl_steps, asked.cycles * asked.opd_steps)


def _edges(recipe: Recipe) -> tuple[Edge, ...]:
    names, topology = list(recipe.branches), recipe.topology
    if topology.kind == "edges":
        return tuple(Edge(edge.student, edge.teacher, edge.weight) for edge in topology.edges)
    return {"hub": hub, "full": full}[topology.kind](names, recipe.opd.weight)
