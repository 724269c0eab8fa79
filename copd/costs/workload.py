"""Rollouts and tokens of a recipe before it runs: of each phase, of evaluation, and of each model in them.

Responses are taken to be as long as `sampling.max_new_tokens` allows, all of them different, all groups with signal. So
rollouts are exact and tokens are the most there can be, up to the lengths of prompts, which are means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from copd.assemble.plan import Plan, measures_merge
from copd.recipe.evaluation import sized
from copd.recipe.model import Recipe
from copd.runs.validations import validation_due
from copd.schedule import Phase
from copd.topology import Edge
from copd.types import BASE, MERGED, MIXED


class Speed(NamedTuple):
    """Tokens a second of one model on its device, while it samples, reads or trains."""

    sampling: float
    reading: float
    training: float


@dataclass(frozen=True)
class Work:
    """Rollouts, and tokens by what is done with them.

    `sampled` tokens are decoded one after the other. `read` ones pass forward only: prompts before sampling, and
    prompts and responses that are scored. `trained` ones, prompts and responses, pass forward and backward, once for
    each iteration. A prompt counts once for all of its rows.
    """

    rollouts: float = 0
    sampled: float = 0
    read: float = 0
    trained: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def times(self, count: float) -> Work:
        """So much work `count` times."""
        return Work(*(count * value for value in vars(self).values()))

    def seconds(self, speed: Speed) -> float:
        """The time of one model for this, one thing after the other."""
        return self.sampled / speed.sampling + self.read / speed.reading + self.trained / speed.training


Works = Mapping[str, Work]
"""The work of each model, by name."""


def summed(works: Sequence[Works]) -> dict[str, Work]:
    """The work of each model in several places."""
    total: dict[str, Work] = {}
    for each in works:
        for name, work in each.items():
            total[name] = total.get(name, Work()) + work
    return total


class Workload:
    """The work that a recipe's plan asks for.

    `prompt_tokens`: the mean length of a capability's prompts. `there`: how many problems evaluation can ask, as of
    `copd.recipe.evaluation.sized`.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        prompt_tokens: Mapping[str, float],
        there: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        self.recipe, self.plan, self._asked = recipe, plan, sized(recipe.evaluation, there)
        self._tokens = {**prompt_tokens, MIXED: fmean(prompt_tokens.values())}
        self._response = recipe.sampling.max_new_tokens

    def phases(self) -> dict[str, Works]:
        """All steps of each phase that has some, by the phase's name."""
        steps = {phase: self.plan.schedule.steps_in(phase) for phase in Phase}
        return {
            phase.value: {name: work.times(count) for name, work in self.step(phase).items()}
            for phase, count in steps.items()
            if count
        }

    def step(self, phase: Phase) -> Works:
        """One step of a phase."""
        plan, native = self.plan, self.plan.batches.native_in_opd
        if phase is Phase.RLVR:
            return {name: self._native(name, taught=False) for name in plan.learners}
        if phase is Phase.OPD:
            students = {edge.student for edge in plan.edges}
            own = {name: self._native(name, taught=name in students) for name in plan.learners if native}
            return summed([own, *map(self._lesson, plan.edges)])
        if phase is Phase.REPLAY:
            return summed([self._replayed(edge) for edge in plan.lessons])
        student = plan.lessons[0].student
        own = {student: self._native(student, taught=True)} if native and student in plan.learners else {}
        return summed([own, *map(self._lesson, plan.lessons)])

    def evaluation(self) -> dict[str, Works]:
        """The measures at the start and at the ends of phases, validation, and the final table."""
        asked, plan = self._asked, self.plan
        ends = [plan.schedule.position(step) for step in range(plan.schedule.steps)]
        measures = sum(end.ends_phase for end in ends)
        validations = sum(validation_due(asked, end, done) for done, end in enumerate(ends, start=1))
        merge = [MERGED] if plan.merges else []
        models = [BASE, *plan.branches, *merge]
        share = 1 / len(plan.branches)  # of the base, which all branches are before the first step
        validation, behaviour = self._answers(asked.validation_problems, 1), asked.behaviour_problems
        validated = dict.fromkeys(plan.branches, validation.times(share + validations))
        if measures_merge(self.recipe, plan):
            validated |= dict.fromkeys(merge, validation.times(1 + validations))
        if asked.models == "product" and plan.product:
            models = [plan.product]
        final = self._answers(asked.problems, 1)
        if asked.pass_at:
            final += self._answers(asked.problems, max(asked.pass_at))
        return {
            "measures": dict.fromkeys(
                plan.branches,
                self._measured(behaviour, 1).times(share)
                + self._measured(behaviour, len(plan.branches)).times(measures),
            ),
            "validation": validated,
            "final table": dict.fromkeys(models, final),
        }

    def _native(self, name: str, *, taught: bool) -> Work:
        """A batch of GRPO on a branch's own capability, with all refills, in a step with a teacher or without."""
        batches, grpo = self.plan.batches, self.recipe.grpo
        sampled, seen = self._batch(name, batches.prompts, batches.rollouts_per_prompt)
        reference = seen if grpo.kl_coefficient else 0
        tries = 1 + batches.refill
        iterations = self._iterations_with_teacher if taught else grpo.iterations
        return Work(batches.most_native, tries * sampled, tries * (seen - sampled) + reference, iterations * seen)

    def _lesson(self, edge: Edge) -> Works:
        """A batch of OPD along an edge: who answers, the teacher who scores, the student who learns."""
        batches, opd = self.plan.batches, self.recipe.opd
        sampled, seen = self._batch(edge.teacher, batches.opd_prompts, batches.opd_rollouts_per_prompt)
        answers = edge.teacher if batches.teachers_answer else edge.student
        asked = seen if opd.signal == "reverse_kl" else 0
        return summed(
            [
                {answers: Work(batches.per_edge, sampled, seen - sampled + asked)},
                {edge.teacher: Work(read=seen)},
                {edge.student: Work(trained=self._iterations_with_teacher * seen)},
            ]
        )

    def _replayed(self, edge: Edge) -> Works:
        """A native batch that the teacher kept, scored by it and learned by the student."""
        batches = self.plan.batches
        _, seen = self._batch(edge.teacher, batches.prompts, batches.rollouts_per_prompt)
        return summed(
            [{edge.teacher: Work(read=seen)}, {edge.student: Work(trained=self._iterations_with_teacher * seen)}]
        )

    @property
    def _iterations_with_teacher(self) -> int:
        return self.recipe.opd.iterations or self.recipe.grpo.iterations

    def _batch(self, capability: str, prompts: int, rows: int) -> tuple[float, float]:
        """Response tokens of a batch, and its tokens in all."""
        sampled = prompts * rows * self._response
        return sampled, sampled + prompts * self._tokens[capability]

    def _answers(self, problems: int, rows: int) -> Work:
        """`rows` responses to so many problems of each capability."""
        prompts = problems * sum(self._tokens[name] for name in self.plan.capabilities)
        count = problems * rows * len(self.plan.capabilities)
        return Work(count, count * self._response, prompts)

    def _measured(self, problems: int, students: int) -> Work:
        """Two responses to each problem of each capability; so many students' responses are scored."""
        own = self._answers(problems, 2)
        return own + Work(read=students * (own.sampled + own.read))
