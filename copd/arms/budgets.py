"""What each account lets an arm spend, in rollouts, so that `budget.rollouts` can hand it to any method.

rollouts        all arms make R rollouts
steps           the paper's convention: a model gets S steps, a single expert S / K
critical_path   K machines: the same rollouts one after the other on the machine that is busy longest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from copd.arms.comparison import Account
from copd.assemble.plan import Plan, make_plan
from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.schedule import RESTING, Phase

APART, TRIED = 1.01, 230
"""Totals that are tried in the place of one that is missed: 230 to each side, so from a tenth to ten times it."""


def budget_of(account: Account, recipe: Recipe, reference: Recipe, rollouts: int) -> int:
    """The rollouts of an arm under an account. `reference` spends `rollouts` under any."""
    if account == "rollouts":
        return rollouts
    measure = MEASURES[account]
    own, other = (_planned(each, rollouts) for each in (recipe, reference))
    return round(rollouts * measure(other) / measure(own))


def total_for_all(accounts: Sequence[Account], recipes: Sequence[Recipe], reference: Recipe, near: int) -> int | None:
    """The total of the reference nearest to `near` that all recipes can make in whole steps; None if none is near."""

    def met(total: int) -> bool:
        try:
            for account in accounts:
                for recipe in recipes:
                    _planned(recipe, budget_of(account, recipe, reference, total))
        except RecipeError:
            return False
        return True

    totals = {max(1, round(near * APART**n)) for n in range(-TRIED, TRIED + 1)}
    return next(filter(met, sorted(totals, key=lambda total: abs(total - near))), None)


def _planned(recipe: Recipe, rollouts: int) -> Plan:
    return make_plan(recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"rollouts": rollouts})}))


def steps_of_a_model(plan: Plan) -> float:
    """Steps of the longest trained model. An expert counts K times: by the paper's convention it gets S / K."""
    schedule = plan.schedule
    alone = schedule.steps_in(Phase.RLVR) + schedule.steps_in(Phase.OPD)
    single = plan.product is None and len(plan.learners) > 1
    return alone * len(plan.capabilities) if single else alone + sum(map(schedule.steps_in, RESTING))


def critical_path(plan: Plan) -> float:
    """Rollouts one after the other with a machine for each capability.

    Branches compute side by side. The batch of a single model is shared out over the machines.
    """
    native, visits, machines = plan.batches.native, plan.batches.per_edge, len(plan.capabilities)
    answering = [edge.teacher if plan.batches.teachers_answer else edge.student for edge in plan.edges]
    busiest = max(map(answering.count, plan.learners))
    of_phase = {
        Phase.RLVR: native / machines if len(plan.learners) == 1 else native,
        Phase.OPD: plan.batches.native_in_opd * native + busiest * visits,
        Phase.CONSOLIDATION: plan.costs.merge_step / machines,
    }
    return sum(plan.schedule.steps_in(phase) * rollouts for phase, rollouts in of_phase.items())


MEASURES: dict[Account, Callable[[Plan], float]] = {  # of "rollouts" the number itself is the budget
    "steps": steps_of_a_model,
    "critical_path": critical_path,
}
