"""The time that a run still needs: training, measures, validation, checkpoints and the final table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from copd.assemble.plan import Plan
from copd.recipe.evaluation import Evaluation
from copd.recipe.sections import CheckpointSection
from copd.runs.validations import validation_due
from copd.schedule import Phase
from copd.types import BASE, MERGED

TRAINING, MEASURING, EVALUATING, SAVING = "training", "measuring", "evaluating", "saving"
UNTRIED = 0.5
"""A response of an evaluation costs so much of a rollout of training, as long as no evaluation was timed."""


class Remaining:
    """What each kind of work has taken per unit so far, and how many units are left.

    Units are rollouts of training, measures of behaviour, responses of evaluations, and checkpoints.
    """

    def __init__(
        self,
        plan: Plan,
        evaluation: Evaluation,
        checkpoint: CheckpointSection,
        handovers: Collection[int] = (),
        *,
        merge: bool = False,
    ) -> None:
        """`merge`: whether validations measure the merge too."""
        self.plan = plan
        self._evaluation, self._merge = evaluation, merge
        self._save_every, self._save_after = checkpoint.every_steps, handovers
        self._seconds: dict[str, float] = defaultdict(float)
        self._units: dict[str, float] = defaultdict(float)
        self._last = 0.0
        self._settled = {MEASURING, EVALUATING, SAVING}

    @property
    def validation(self) -> int:
        """Responses of one validation."""
        return self._validated(len(self.plan.branches))

    @property
    def first_validation(self) -> int:
        """Responses of the validation before the first step, in which the branches are one model."""
        return self._validated(1)

    def _validated(self, models: int) -> int:
        return (models + self._merge) * len(self.plan.capabilities) * self._evaluation.validation_problems

    @property
    def final(self) -> int:
        """Responses of the final table."""
        asked, plan = self._evaluation, self.plan
        models = {BASE, *plan.branches, *([MERGED] if plan.product == MERGED else [])}
        count = 1 if asked.models == "product" and plan.product else len(models)
        return count * len(plan.capabilities) * asked.problems * (1 + max(asked.pass_at, default=0))

    def took(self, work: str, seconds: float, units: float = 1) -> None:
        """So many units of a work have taken so many seconds.

        What a step's end asks for is left until it has been timed after the step's training.
        """
        self._seconds[work] += seconds
        self._units[work] += units
        self._settled = set() if work == TRAINING else self._settled | {work}

    def units(self, work: str, parts: int) -> float:
        """Units of a stage of so many parts: each part is a capability that one model is asked."""
        if work == EVALUATING:
            return parts * self._evaluation.validation_problems
        return parts / (len(self.plan.branches) * len(self.plan.capabilities)) if work == MEASURING else 1

    def heard(self, record: Mapping[str, Any]) -> None:
        """A line of the run's record: the time since the line before it was that of its event.

        Time for which a run was stopped is none. Checkpoints count with the step after them.
        """
        now, before = record["seconds"], self._last
        self._last = now
        seconds = now - before if now >= before else now
        if record["event"] == "update":
            step, branches = record["step"], self.plan.trained(Phase(record["phase"]))
            self.took(TRAINING, seconds, self.plan.step_cost(step) / len(branches))
        elif record["event"] == "accuracy":
            self.took(EVALUATING, seconds, self.first_validation if record["step"] < 0 else self.validation)
        elif record["event"] == "behaviour":
            self.took(MEASURING, seconds, 1 / len(self.plan.branches) if record["step"] < 0 else 1)
        elif record["event"] == "teaching":
            self.took(MEASURING, seconds, 0)

    def left(self, done: int) -> dict[str, float]:
        """Units of each work after so many steps, with what the end of the last of them still asks for."""
        found, schedule = defaultdict(float, {EVALUATING: float(self.final)}), self.plan.schedule
        for step in range(done, schedule.steps):
            found[TRAINING] += self.plan.step_cost(step)
        for step in range(max(0, done - 1), schedule.steps):
            for work, units in self._at_end_of(step).items():
                if step >= done or work not in self._settled:
                    found[work] += units
        return found

    def _at_end_of(self, step: int) -> dict[str, int]:
        here, ends = self.plan.schedule.position(step), step + 1
        return {
            MEASURING: int(here.ends_phase),
            EVALUATING: self.validation if validation_due(self._evaluation, here, ends) else 0,
            SAVING: int(here.ends_cycle or ends % self._save_every == 0 or ends in self._save_after),
        }

    def seconds(self, done: int) -> dict[str, float]:
        """Seconds that each work still needs after so many steps; empty before the first was timed.

        A measure or a checkpoint that was never timed counts nothing.
        """
        if not self._units[TRAINING]:
            return {}
        per_unit: Mapping[str, float] = {
            work: self._seconds[work] / count for work, count in self._units.items() if count
        }
        untried = {EVALUATING: UNTRIED * per_unit[TRAINING]}
        return {work: units * ({**untried, **per_unit}.get(work, 0.0)) for work, units in self.left(done).items()}
