"""What a recipe will do, in numbers, before it does it."""

from __future__ import annotations

from dataclasses import dataclass

from copd.config import Recipe
from copd.schedule import Batches, Phase, Schedule, copd_rollouts, equal_budget
from copd.topology import Edge, full, hub


@dataclass(frozen=True)
class Plan:
    """The method's branches, edges, steps and rollouts, derived from a recipe."""

    fields: tuple[str, ...]
    branches: tuple[str, ...]
    edges: tuple[Edge, ...]
    schedule: Schedule
    batches: Batches

    @property
    def rollouts(self) -> int:
        """R(method): all rollouts needed to make the model or models; evaluation is not counted."""
        return copd_rollouts(self.schedule, self.batches, len(self.branches), len(self.edges))

    def step_cost(self, step: int) -> int:
        """Rollouts of one step of all branches; the unit in which the time left is estimated."""
        visits = len(self.edges) * self.batches.per_edge if self.schedule.position(step).phase is Phase.OPD else 0
        return len(self.branches) * self.batches.native + visits


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a recipe. Baselines get as many RLVR steps as CoPD's rollouts allow, in as many cycles.

    R(copd) = N ((S_RL + S_OPD) K P G + S_OPD E P' G'); R(expert) = steps K P G; R(mixed) = steps P G.
    """
    names = tuple(recipe.branches)
    edges = _edges(recipe) if len(names) > 1 and recipe.schedule.opd_steps else ()
    schedule = Schedule(recipe.schedule.cycles, recipe.schedule.rl_steps, recipe.schedule.opd_steps)
    sampling, opd = recipe.sampling, recipe.opd
    batches = Batches(
        sampling.prompts_per_step, sampling.rollouts_per_prompt, opd.prompts_per_step, opd.rollouts_per_prompt
    )
    if recipe.method == "copd":
        return Plan(names, names, edges, schedule, batches)
    branches = names if recipe.method == "expert" else ("mixed",)
    budget = copd_rollouts(schedule, batches, len(names), len(edges))
    alone = equal_budget(budget, len(branches) * batches.native, schedule.cycles)
    return Plan(names, branches, (), alone, batches)


def _edges(recipe: Recipe) -> tuple[Edge, ...]:
    names, topology = list(recipe.branches), recipe.topology
    if topology.kind == "edges":
        return tuple(Edge(edge.student, edge.teacher, edge.beta) for edge in topology.edges)
    return {"hub": hub, "full": full}[topology.kind](names, recipe.opd.beta)
