"""The phase of a step and the rollouts of a method, as pure functions of the recipe's numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

TOLERATED = 20
"""A budget may be missed by one rollout in this many, since steps are whole."""


class Phase(Enum):
    """RLVR: each branch trains alone on its own capability. OPD: the branches teach each other.

    REPLAY and CONSOLIDATION: the branches rest and teach one student, first on what they have sampled in RLVR before,
    then on what the student samples.
    """

    RLVR = "rlvr"
    OPD = "opd"
    REPLAY = "replay"
    CONSOLIDATION = "consolidation"


RESTING = frozenset({Phase.REPLAY, Phase.CONSOLIDATION})
"""Phases in which the branches only teach."""


@dataclass(frozen=True)
class Position:
    """The place of a step: its cycle, its phase, and whether it is the first or the last step of each."""

    cycle: int
    phase: Phase
    begins_phase: bool
    begins_cycle: bool
    ends_phase: bool
    ends_cycle: bool


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one phase, between two points at which the branches meet."""

    phase: Phase
    steps: range


class _Span(NamedTuple):
    cycle: int
    phase: Phase
    steps: range
    begins_cycle: bool
    ends_cycle: bool


@dataclass(frozen=True)
class Schedule:
    """N cycles of S_RL steps of RLVR and S_OPD steps of mutual OPD (method.md section 5).

    The first cycle has `first_rl_steps` of RLVR if they are given. The last cycle ends with `merge_steps` of
    consolidation, after `replay_steps` of replay. With `restart` every cycle ends so, and the branches begin the next
    cycle from the merge.
    """

    cycles: int
    rl_steps: int
    opd_steps: int
    merge_steps: int = 0
    first_rl_steps: int | None = None
    restart: bool = False
    replay_steps: int = 0

    @cached_property
    def _spans(self) -> tuple[_Span, ...]:
        """All phases that have steps, in order."""
        spans: list[_Span] = []
        for cycle in range(self.cycles):
            lengths = [(phase, count) for phase, count in self._lengths(cycle).items() if count]
            for place, (phase, count) in enumerate(lengths, start=1):
                first = spans[-1].steps.stop if spans else 0
                steps = range(first, first + count)
                spans.append(_Span(cycle, phase, steps, place == 1, place == len(lengths)))
        return tuple(spans)

    def _lengths(self, cycle: int) -> dict[Phase, int]:
        alone = self.rl_steps if cycle or self.first_rl_steps is None else self.first_rl_steps
        merges = self.restart or cycle + 1 == self.cycles
        resting = {Phase.REPLAY: self.replay_steps, Phase.CONSOLIDATION: self.merge_steps}
        return {Phase.RLVR: alone, Phase.OPD: self.opd_steps, **{phase: merges * n for phase, n in resting.items()}}

    def steps_in(self, phase: Phase) -> int:
        """The steps of a phase in all cycles together."""
        return sum(len(span.steps) for span in self._spans if span.phase is phase)

    @property
    def steps(self) -> int:
        return self._spans[-1].steps.stop if self._spans else 0

    @property
    def steps_before_exchange(self) -> int:
        """Until this step the branches are experts: they have neither been taught nor begun anew from a merge."""
        for span in self._spans:
            if span.phase is not Phase.RLVR or (span.cycle and self.restart):
                return span.steps.start
        return self.steps

    def steps_before(self, first: Phase, counted: Collection[Phase]) -> int:
        """The steps of the phases `counted` before the first step of another phase; all of them if it has none."""
        before = takewhile(lambda span: span.phase is not first, self._spans)
        return sum(len(span.steps) for span in before if span.phase in counted)

    def updates_before(self, step: int) -> int:
        """The updates of a branch in RLVR and OPD before this step: a branch rests while it only teaches."""
        rests = (span.steps for span in self._spans if span.phase in RESTING)
        return step - sum(min(len(steps), max(0, step - steps.start)) for steps in rests)

    def phase_start(self, step: int) -> int:
        """The first step of the phase that this step belongs to."""
        return self._span(step).steps.start

    def _span(self, step: int) -> _Span:
        return self._spans[bisect_right(self._spans, step, key=lambda span: span.steps.start) - 1]

    def position(self, step: int) -> Position:
        """The position of step 0 <= step < steps."""
        span = self._span(step)
        begins, ends = step == span.steps[0], step == span.steps[-1]
        of_cycle = begins and span.begins_cycle, ends and span.ends_cycle
        return Position(span.cycle, span.phase, begins, of_cycle[0], ends, of_cycle[1])

    def stretches(self, start: int, meet_every: int, meet_after: Collection[int] = ()) -> Iterator[Stretch]:
        """The steps from `start` on, split where the branches meet.

        Branches meet after every step in which one needs another, at the end of every phase, after every multiple of
        `meet_every` steps, and after each number of steps in `meet_after`.
        """
        first = start
        for step in range(start, self.steps):
            here = self.position(step)
            alone = here.phase is Phase.RLVR and not here.ends_phase
            if not alone or (step + 1) % meet_every == 0 or step + 1 in meet_after:
                yield Stretch(here.phase, range(first, step + 1))
                first = step + 1


@dataclass(frozen=True)
class Batches:
    """Sizes of a step: prompts, and rollouts per prompt, for a branch's own capability and for one incoming edge.

    `native_in_opd`: whether a step of mutual OPD has a native batch too. `held_teachers`: whether branches teach with
    the weights that they had when the phase of mutual OPD began. `teachers_answer`: whether teachers answer the prompts
    of an edge, instead of students. `refill`: how often a native batch may be refilled by as many prompts.
    """

    prompts: int
    rollouts_per_prompt: int
    opd_prompts: int
    opd_rollouts_per_prompt: int
    native_in_opd: bool = True
    held_teachers: bool = False
    teachers_answer: bool = False
    refill: int = 0

    @property
    def native(self) -> int:
        return self.prompts * self.rollouts_per_prompt

    @property
    def most_native(self) -> int:
        """Most rollouts of a native batch, with those of all refills."""
        return self.native * (1 + self.refill)

    @property
    def per_edge(self) -> int:
        return self.opd_prompts * self.opd_rollouts_per_prompt


@dataclass(frozen=True)
class Costs:
    """Rollouts of one step of each phase, all branches together."""

    rl_step: int
    opd_step: int = 0
    merge_step: int = 0

    def of_step(self, phase: Phase) -> int:
        """Rollouts of one step of a phase."""
        costs = {Phase.RLVR: self.rl_step, Phase.OPD: self.opd_step, Phase.CONSOLIDATION: self.merge_step}
        return costs.get(phase, 0)

    def of(self, schedule: Schedule) -> int:
        """R: all rollouts of a schedule."""
        return sum(schedule.steps_in(phase) * self.of_step(phase) for phase in Phase)

    def scaled(self, schedule: Schedule, rollouts: int) -> Schedule:
        """The schedule with the steps of all phases scaled, in their proportion, to come nearest to `rollouts`.

        Those of replay, which cost none, stay as they are.

        Each phase that has steps keeps at least one per cycle. Apart from that, R is off by at most half a step of each
        phase per cycle.
        """
        factor = rollouts / self.of(schedule)

        def steps(count: int) -> int:
            return max(1, round(factor * count)) if count else 0

        return replace(
            schedule,
            rl_steps=steps(schedule.rl_steps),
            opd_steps=steps(schedule.opd_steps),
            merge_steps=steps(schedule.merge_steps),
            first_rl_steps=None if schedule.first_rl_steps is None else steps(schedule.first_rl_steps),
        )

    def meet(self, schedule: Schedule, rollouts: int) -> bool:
        """Whether the scaled schedule makes `rollouts`, give or take one in `TOLERATED`."""
        return TOLERATED * abs(self.of(self.scaled(schedule, rollouts)) - rollouts) <= rollouts
