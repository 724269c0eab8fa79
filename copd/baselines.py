"""What CoPD is compared with, made of the same phases and the same handles (method.md section 1).

    expert, mixed, merge_only   RLVR without any exchange: `copd` without edges and without phase II
    static_opd, mopd            RLVR to the end, then frozen experts teach one student     -> `frozen_teachers`

`merge_only` is the merge of the experts (`copd.algorithm.merged`). `copd.assemble.plan` gives the branches, edges,
steps and rollouts R of each method.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping, Sequence

from copd.algorithm import Merge, Observer, lessons, merged, native, rlvr
from copd.schedule import Batches, Phase, Schedule
from copd.topology import Edge
from copd.types import BranchHandle


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
) -> None:
    """One cycle: the experts are trained to the end; then the teachers of `edges` are frozen and teach `student`.

    `origin` makes the student's first weights from the experts' weights. Without it the student keeps the weights it
    has: in `static_opd` those of an expert, in `mopd` those of the base. Its optimizer starts anew in either case.
    """
    everybody = {**experts, student.name: student}
    for stretch in schedule.stretches(start, observer.meet_every, observer.meet_after):
        if stretch.phase is Phase.RLVR:
            await gather(*(rlvr(expert, stretch.steps, batches, observer) for expert in experts.values()))
        else:
            for step in stretch.steps:
                if step == schedule.rl_steps:
                    await _begin(student, experts, origin)
                taught = await lessons(everybody, edges, step, batches, version=schedule.rl_steps)
                parts = taught[student.name]
                if batches.native_in_opd:
                    parts = [*await native(student, step, batches), *parts]
                observer.updated(student.name, step, await student.update(parts))
        await observer.met(stretch)


async def _begin(student: BranchHandle, experts: Mapping[str, BranchHandle], origin: Merge | None) -> None:
    """The student before its first lesson: its first weights, and an optimizer without moments."""
    if origin:
        await student.load_weights(await merged(experts, origin))
    else:
        await student.start_optimizer()
