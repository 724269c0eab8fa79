"""What CoPD is compared with, made of the same phases and the same handles (method.md section 1).

    expert, mixed, merge_only   RLVR without any exchange                                  -> `independent`
    static_opd, mopd            RLVR to the end, then frozen experts teach one student     -> `frozen_teachers`

`merge_only` is the merge of the experts (`copd.algorithm.merged`). Which branches, edges and steps a method has, and
its rollouts R, is in `copd.runs.plan`.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping, Sequence

from copd.algorithm import Merge, Observer, copd, merged, rlvr
from copd.schedule import Batches, Phase, Schedule
from copd.topology import Edge
from copd.types import BranchHandle, Part


async def independent(
    branches: Mapping[str, BranchHandle], schedule: Schedule, batches: Batches, observer: Observer, start: int = 0
) -> None:
    """RLVR without any exchange: CoPD without edges and without phase II."""
    await copd(branches, [], schedule, batches, observer, start)


async def frozen_teachers(
    experts: Mapping[str, BranchHandle],
    student: BranchHandle,
    edges: Sequence[Edge],
    schedule: Schedule,
    batches: Batches,
    observer: Observer,
    start: int = 0,
    *,
    origin: Merge | None = None,
    native: bool = False,
) -> None:
    """One cycle: the experts are trained to the end, then the teachers of `edges` stay as they are and teach `student`.

    `origin` makes the student's first weights from those of the experts; without it the student begins as it is given:
    in `static_opd` it is itself one of the experts, in `mopd` the base. With `native` every OPD step has a GRPO part on
    the student's own field.
    """
    for stretch in schedule.stretches(start, observer.meet_every):
        if stretch.phase is Phase.RLVR:
            await gather(*(rlvr(expert, stretch.steps, batches, observer) for expert in experts.values()))
        else:
            for step in stretch.steps:
                if step == schedule.rl_steps and origin:
                    await student.load_weights(await merged(experts, origin))
                await _lesson(experts, student, edges, step, schedule.rl_steps, batches, observer, native)
        await observer.met(stretch)


async def _lesson(
    experts: Mapping[str, BranchHandle],
    student: BranchHandle,
    edges: Sequence[Edge],
    step: int,
    version: int,
    batches: Batches,
    observer: Observer,
    native: bool,
) -> None:
    """One step of OPD from teachers that stand at `version`."""
    parts = []
    if native:
        own = await student.collect(student.field, step, batches.prompts, batches.rollouts_per_prompt)
        parts.append(Part("native", own))
    for edge in edges:
        teacher = experts[edge.teacher]
        visit = await student.collect(teacher.field, step, batches.opd_prompts, batches.opd_rollouts_per_prompt)
        score = await teacher.score(visit)
        parts.append(Part(f"from_{edge.teacher}", visit, edge.beta, score, teacher_version=version))
    observer.updated(student.name, step, await student.update(parts))
