"""The phase of a step and the rollouts of a method, as pure functions of the recipe's numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum

TOLERATED = 20
"""A budget may be missed by one rollout in this many, since steps are whole."""


class Phase(Enum):
    """RLVR: each branch trains alone on its own capability. OPD: its peers also teach it on their prompts."""

    RLVR = "rlvr"
    OPD = "opd"


@dataclass(frozen=True)
class Position:
    """The place of a step: its cycle, its phase, and whether it is the last step of each."""

    cycle: int
    phase: Phase
    ends_phase: bool
    ends_cycle: bool


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one phase, between two points at which the branches meet."""

    phase: Phase
    steps: range


@dataclass(frozen=True)
class Schedule:
    """N cycles of S_RL steps of RLVR and S_OPD steps of mutual OPD (method.md section 5)."""

    cycles: int
    rl_steps: int
    opd_steps: int

    @property
    def steps(self) -> int:
        return self.cycles * (self.rl_steps + self.opd_steps)

    @property
    def steps_before_opd(self) -> int:
        """Until the first OPD step the branches are experts that have not been taught."""
        return self.rl_steps if self.opd_steps else self.steps

    def position(self, step: int) -> Position:
        """The position of step 0 <= step < steps."""
        cycle, within = divmod(step, self.rl_steps + self.opd_steps)
        ends_cycle = within + 1 == self.rl_steps + self.opd_steps
        if within < self.rl_steps:
            return Position(cycle, Phase.RLVR, ends_cycle or within + 1 == self.rl_steps, ends_cycle)
        return Position(cycle, Phase.OPD, ends_cycle, ends_cycle)

    def stretches(self, start: int, meet_every: int, meet_after: Collection[int] = ()) -> Iterator[Stretch]:
        """The steps from `start` on, split where the branches meet.

        Branches meet after every OPD step, at the end of every phase, after every multiple of `meet_every` steps, and
        after each number of steps in `meet_after`.
        """
        first = start
        for step in range(start, self.steps):
            here = self.position(step)
            if here.phase is Phase.OPD or here.ends_phase or (step + 1) % meet_every == 0 or step + 1 in meet_after:
                yield Stretch(here.phase, range(first, step + 1))
                first = step + 1


@dataclass(frozen=True)
class Batches:
    """Sizes of a step: prompts, and rollouts per prompt, for a branch's own capability and for one incoming edge.

    `native_in_opd`: whether a step of mutual OPD has a native batch too.
    """

    prompts: int
    rollouts_per_prompt: int
    opd_prompts: int
    opd_rollouts_per_prompt: int
    native_in_opd: bool = True

    @property
    def native(self) -> int:
        return self.prompts * self.rollouts_per_prompt

    @property
    def per_edge(self) -> int:
        return self.opd_prompts * self.opd_rollouts_per_prompt


@dataclass(frozen=True)
class Costs:
    """Rollouts of one step of each phase, all branches together."""

    rl_step: int
    opd_step: int

    def of(self, schedule: Schedule) -> int:
        """R: all rollouts of a schedule."""
        return schedule.cycles * (schedule.rl_steps * self.rl_step + schedule.opd_steps * self.opd_step)

    def scaled(self, schedule: Schedule, rollouts: int) -> Schedule:
        """The schedule with the steps of both phases scaled, in their proportion, to come nearest to `rollouts`.

        Each phase that has steps keeps at least one per cycle. Apart from that, R is off by at most half a step of each
        phase per cycle.
        """
        factor = rollouts / self.of(schedule)

        def steps(count: int) -> int:
            return max(1, round(factor * count)) if count else 0

        return Schedule(schedule.cycles, steps(schedule.rl_steps), steps(schedule.opd_steps))

    def meet(self, schedule: Schedule, rollouts: int) -> bool:
        """Whether the scaled schedule makes `rollouts`, give or take one in `TOLERATED`."""
        return TOLERATED * abs(self.of(self.scaled(schedule, rollouts)) - rollouts) <= rollouts
