"""Co-Evolving Policy Distillation: Algorithm 1 of the paper (method.md section 5).

    theta_k <- base for all k                                            (the branches as they are given)
    repeat N cycles:
      phase I   for every branch in parallel: S_RL steps of GRPO on D_k                     -> `rlvr`
      phase II  for every branch in parallel: S_OPD steps; each step = native GRPO on D_k
                + for each peer j: rollouts on D_j, scored by branch j now; one update      -> `mutual_opd`, `lesson`
    theta* <- Merge(theta_0 .. theta_K-1)                                -> `merged`

Beyond the paper, a cycle may end with phase III: the branches rest and teach one student, which is then theta*
(`consolidation`). The student begins as their merge, or with weights of its own (`begin`). The branches may begin the
next cycle from theta* (`restart`). All these functions are in `copd.phases`.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping, Sequence

from copd.handles import BranchHandle
from copd.phases import (
    Consolidation,
    Exchange,
    Merge,
    Observer,
    begin,
    consolidation,
    merged,
    mutual_opd,
    replay,
    restart,
    rlvr,
)
from copd.schedule import Batches, Phase, Schedule
from copd.topology import Edge


async def copd(
    branches: Mapping[str, BranchHandle],
    edges: Sequence[Edge],
    schedule: Schedule,
    batches: Batches,
    observer: Observer,
    start: int = 0,
    *,
    merge: Merge | None = None,
    exchange: Exchange | None = None,
    consolidated: Consolidation | None = None,
) -> None:
    """Train the branches from step `start` to the end of the schedule.

    `merge` and `exchange` are needed where branches begin a cycle from their merge. With `consolidated`, `merge` also
    makes the student's first weights in each phase III; without `merge` the student keeps its weights.
    """
    for stretch in schedule.stretches(start, observer.meet_every, observer.meet_after):
        here = schedule.position(stretch.steps[0])
        if schedule.restart and here.begins_cycle and here.cycle:
            async with merged(branches, merge, exchange, consolidated) as weights:
                await restart(branches, weights)
        if stretch.phase is Phase.RLVR:
            await gather(*(rlvr(branch, stretch.steps, batches, observer) for branch in branches.values()))
        else:
            (step,) = stretch.steps
            version = schedule.updates_before(step)
            if stretch.phase is Phase.OPD:
                if batches.held_teachers and here.begins_phase:
                    await gather(*(branch.hold() for branch in branches.values()))
                if batches.held_teachers:
                    version = schedule.updates_before(schedule.phase_start(step))
                await mutual_opd(branches, edges, step, batches, observer, version=version)
                if batches.held_teachers and here.ends_phase:
                    await gather(*(branch.release() for branch in branches.values()))
            else:
                assert consolidated
                if here.begins_phase and (here.phase is Phase.REPLAY or not schedule.replay_steps):
                    await begin(consolidated.student, branches, merge, exchange)
                if here.phase is Phase.REPLAY:
                    place = step - schedule.phase_start(step)
                    await replay(branches, consolidated, place, step, observer, version=version)
                else:
                    await consolidation(branches, consolidated, step, batches, observer, version=version)
        await observer.met(stretch)
