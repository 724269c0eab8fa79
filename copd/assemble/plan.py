"""The numbers of a run before it starts: branches, edges, steps, rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.schedule import RESTING, TOLERATED, Batches, Costs, Phase, Schedule
from copd.topology import Edge, full, hub, to_one
from copd.types import MERGED, MIXED, STUDENT


class MissedBudget(RecipeError):
    """Whole steps cannot make the rollouts of `budget.rollouts`; `nearest` is what they can make."""

    def __init__(self, message: str, nearest: int) -> None:
        super().__init__(message)
        self.nearest = nearest


@dataclass(frozen=True)
class Plan:
    """The method's branches, edges, steps and rollouts, derived from a recipe.

    RLVR and OPD phases train the branches in `learners`. `edges` are those of mutual OPD; `lessons` those of
    consolidation, all of them to one student. `product` names a branch, or MERGED for the merge of all. It is None if
    the method has no single product.
    """

    capabilities: tuple[str, ...]
    branches: tuple[str, ...]
    learners: tuple[str, ...]
    edges: tuple[Edge, ...]
    schedule: Schedule
    batches: Batches
    costs: Costs
    product: str | None = None
    lessons: tuple[Edge, ...] = ()

    @property
    def merges(self) -> bool:
        """Whether the product is computed from the branches' weights, at any step, without training."""
        return self.product == MERGED and MERGED not in self.branches

    @property
    def student(self) -> str | None:
        """The branch that consolidation trains."""
        return self.lessons[0].student if self.lessons else None

    @property
    def taught(self) -> tuple[Edge, ...]:
        """The edges of all phases between two models."""
        return tuple(edge for edge in (*self.edges, *self.lessons) if edge.student != edge.teacher)

    @property
    def rollouts(self) -> int:
        """R(method): all rollouts that make the model or models, at most. Evaluation is not counted.

        Without refills of native batches there are exactly as many.
        """
        return self.costs.of(self.schedule)

    def trained(self, phase: Phase) -> tuple[str, ...]:
        """The branches that a step of a phase trains."""
        if phase in RESTING:
            assert self.student
            return (self.student,)
        return self.learners

    def seconds(self, per_native: float, per_visit: float, share: float) -> float:
        """Seconds of all steps, given those of a rollout on a branch's own capability and of one on a teacher's.

        `share`: of the learners' seconds together, since several compute at once. A consolidation's student is alone.
        """
        visits_of = {Phase.OPD: len(self.edges), Phase.CONSOLIDATION: len(self.lessons)}
        total = 0.0
        for phase in Phase:
            visits = visits_of.get(phase, 0) * self.batches.per_edge
            step = (self._work(phase) - visits) * per_native + visits * per_visit
            total += self.schedule.steps_in(phase) * step * (1.0 if phase in RESTING else share)
        return total

    def step_cost(self, step: int) -> int:
        """Rollouts that one step of all branches samples or replays. The time left is estimated in this unit."""
        return self._work(self.schedule.position(step).phase)

    def _work(self, phase: Phase) -> int:
        """A replayed rollout, which is scored instead of sampled, is taken for as much work as a native one."""
        return len(self.lessons) * self.batches.native if phase is Phase.REPLAY else self.costs.of_step(phase)


def handovers(recipe: Recipe) -> tuple[int, ...]:
    """Numbers of steps after which a checkpoint is kept: those asked for, and those where experts are taken over.

    Other methods of the same recipe would take over the experts of this run.
    """
    last = make_plan(recipe).schedule.steps
    found = set(recipe.checkpoint.keep_at)
    if recipe.method not in ("expert", "merge_only") or len(recipe.branches) < 2:
        return tuple(sorted(steps for steps in found if steps <= last))
    for method in ("copd", "static_opd", "mopd"):
        try:
            found.add(make_plan(recipe.model_copy(update={"method": method})).schedule.steps_before_exchange)
        except RecipeError:  # this method cannot follow: a phase has no steps, or the budget does not fit it
            continue
    return tuple(sorted(steps for steps in found if 0 < steps <= last))


def kept_checkpoints(recipe: Recipe) -> int:
    """The most checkpoints that a run keeps, the one that is being written left out."""
    return recipe.checkpoint.keep_last + len(handovers(recipe)) + recipe.checkpoint.keep_best


def measures_merge(recipe: Recipe, plan: Plan) -> bool:
    """Whether validations measure the merge too: the recipe asks for more than is usual, and the plan `merges`."""
    return plan.merges and (recipe.evaluation.every_steps is not None or recipe.checkpoint.keep_best)


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a recipe: its own schedule for CoPD; for a baseline as many steps as CoPD's rollouts allow.

    With `budget.rollouts` every method, CoPD too, gets as many steps as that number allows (docs/method.md has each
    method's R). Raises RecipeError if whole steps cannot meet the budget, or if a phase that the method needs has no
    steps.
    """
    plan = _planned(recipe)
    kept = plan.schedule.steps_before(Phase.REPLAY, {Phase.RLVR, *({Phase.OPD} if plan.batches.native_in_opd else ())})
    if plan.schedule.replay_steps > kept:
        raise RecipeError(
            f"opd.replay: is {recipe.opd.replay}, but branches have {kept} batches of RLVR when they first replay; set "
            f"{kept} or less"
        )
    return plan


def _planned(recipe: Recipe) -> Plan:
    batches = Batches(
        recipe.sampling.prompts_per_step,
        recipe.sampling.rollouts_per_prompt,
        recipe.opd.prompts_per_step,
        recipe.opd.rollouts_per_prompt,
        recipe.opd.native,
        held_teachers=recipe.opd.teachers == "phase_start",
        teachers_answer=recipe.opd.responses == "teacher",
        refill=recipe.sampling.refill,
    )
    asked = _asked(recipe)
    compared = _copd(recipe, asked, batches)
    budget = recipe.budget.rollouts
    if recipe.method == "copd" and budget is None:
        return compared
    return PLANS[recipe.method](recipe, asked, batches, budget or compared.rollouts)


def _asked(recipe: Recipe) -> Schedule:
    """The schedule that the recipe asks of CoPD."""
    asked = recipe.schedule
    return Schedule(
        asked.cycles,
        asked.rl_steps,
        asked.opd_steps,
        merge_steps=recipe.merge.steps or 0,
        first_rl_steps=asked.first_rl_steps,
        restart=asked.restart == "merge",
        replay_steps=recipe.opd.replay if recipe.merge.steps else 0,
    )


def _copd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int | None = None) -> Plan:
    """R = N (S_RL K P G + S_OPD ([K P G, with `opd.native`] + E P' G')) + M S_M K P' G'.

    With `merge.method: distil` S_M is `merge.steps`, and M the number of merges: N with `schedule.restart`, else 1.
    `schedule.first_rl_steps` replaces S_RL in the first cycle.
    """
    names = tuple(recipe.branches)
    edges = (*_edges(recipe), *_anchors(recipe)) if len(names) > 1 and recipe.schedule.opd_steps else ()
    lessons = to_one(MERGED, names, recipe.opd.weight) if asked.merge_steps else ()
    native = len(names) * batches.most_native
    opd_step = batches.native_in_opd * native + len(edges) * batches.per_edge
    costs = Costs(native, opd_step, len(lessons) * batches.per_edge)
    schedule = asked if rollouts is None else _scaled(recipe, costs, asked, rollouts)
    product = MERGED if len(names) > 1 else names[0]
    branches = (*names, MERGED) if lessons else names
    return Plan(names, branches, names, edges, schedule, batches, costs, product, lessons)


def _expert(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = steps K P G, all experts together."""
    names = tuple(recipe.branches)
    costs = Costs(len(names) * batches.most_native)
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
    costs = Costs(large.most_native)
    schedule = _scaled(recipe, costs, Schedule(asked.cycles, 1, 0), rollouts)
    return Plan(names, (MIXED,), (MIXED,), (), schedule, large, costs, MIXED)


def _static_opd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = S_E 2 P G + S_O (P' G' [+ P G with native GRPO]), with S_E : S_O = S_RL : S_OPD."""
    student, teacher = static_pair(recipe)
    batches = replace(batches, native_in_opd=recipe.static_opd.native)
    costs = Costs(2 * batches.most_native, merge_step=batches.per_edge + batches.native_in_opd * batches.most_native)
    schedule = _scaled(recipe, costs, _two_stages(asked, recipe.method, recipe.opd.replay), rollouts)
    pair, lessons = (student, teacher), to_one(student, [teacher], recipe.opd.weight)
    return Plan(tuple(recipe.branches), pair, pair, (), schedule, batches, costs, student, lessons)


def _mopd(recipe: Recipe, asked: Schedule, batches: Batches, rollouts: int) -> Plan:
    """R = S_E K P G + S_O K P' G', with S_E : S_O = S_RL : S_OPD."""
    names, batches = tuple(recipe.branches), replace(batches, native_in_opd=False)
    costs = Costs(len(names) * batches.most_native, merge_step=len(names) * batches.per_edge)
    schedule = _scaled(recipe, costs, _two_stages(asked, recipe.method, recipe.opd.replay), rollouts)
    lessons = to_one(STUDENT, names, recipe.opd.weight)
    return Plan(names, (*names, STUDENT), names, (), schedule, batches, costs, STUDENT, lessons)


PLANS: dict[str, Callable[[Recipe, Schedule, Batches, int], Plan]] = {
    "copd": _copd,
    "expert": _expert,
    "mixed": _mixed,
    "static_opd": _static_opd,
    "mopd": _mopd,
    "merge_only": _merge_only,
}


def _scaled(recipe: Recipe, costs: Costs, schedule: Schedule, rollouts: int) -> Schedule:
    """The schedule scaled to this number of rollouts. Raises MissedBudget if that misses a budget of the recipe."""
    if recipe.budget.rollouts is not None and not costs.meet(schedule, rollouts):
        made = costs.of(costs.scaled(schedule, rollouts))
        each, fewer = ("cycle", "lower schedule.cycles or ") if schedule.cycles > 1 else ("run", "")
        raise MissedBudget(
            f"budget.rollouts: method {recipe.method} cannot make {rollouts:,} rollouts within {1 / TOLERATED:.0%}: "
            f"steps are whole, a {each} has at least one of each phase, and the nearest total is {made:,}. Set "
            f"{made:,}, or {fewer}lower the prompts and rollouts of a step",
            made,
        )
    return costs.scaled(schedule, rollouts)


def static_pair(recipe: Recipe) -> tuple[str, str]:
    """Student and teacher of `static_opd`: the first two branches unless the recipe names them."""
    first, second = list(recipe.branches)[:2]
    settings = recipe.static_opd
    student = settings.student or (second if settings.teacher == first else first)
    return student, settings.teacher or (second if student == first else first)


def _two_stages(asked: Schedule, method: str, replay: int) -> Schedule:
    """All RLVR first, then as many steps of distillation as the schedule has of OPD and of consolidation."""
    alone = asked.steps_in(Phase.RLVR)
    taught = asked.steps_in(Phase.OPD) + asked.steps_in(Phase.CONSOLIDATION)
    if not alone or not taught:
        raise RecipeError(f"schedule: method {method} needs rl_steps and opd_steps above 0: experts, then distillation")
    return Schedule(1, alone, 0, merge_steps=taught, replay_steps=replay)


def _anchors(recipe: Recipe) -> tuple[Edge, ...]:
    """The edges from each branch to itself."""
    weight = recipe.opd.anchor
    return tuple(Edge(name, name, weight) for name in recipe.branches) if weight else ()


def _edges(recipe: Recipe) -> tuple[Edge, ...]:
    names, topology = list(recipe.branches), recipe.topology
    if topology.kind == "edges":
        return tuple(Edge(edge.student, edge.teacher, edge.weight) for edge in topology.edges)
    return {"hub": hub, "full": full}[topology.kind](names, recipe.opd.weight)
