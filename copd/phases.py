"""The phases of CoPD (method.md sections 3 to 5), and the merge.

A branch is a handle: its calls are awaited. The phases pass its rollouts on unread, and do not know where the branch
lives. A part of an update without a teacher is native GRPO; a part with a teacher is OPD. Each part has its own
denominator.
"""

from __future__ import annotations

from asyncio import ensure_future, gather
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from copd.handles import BranchHandle
from copd.schedule import Batches, Stretch
from copd.topology import Edge
from copd.types import MERGED, Part, Rollouts

Merge = Callable[[Mapping[str, Path], Path], None]
"""Reads the weights of the branches, a folder of each by name, and writes those of their merge into a new folder."""
Exchange = Callable[[], AbstractContextManager[Path]]
"""Makes a folder that all branches reach, through which weights travel. It is removed at the end of the block."""


class Observer(Protocol):
    """Logs every update. Measures and saves whenever the branches meet. An observer never changes a branch."""

    meet_every: int
    meet_after: Collection[int]

    def may_begin(self, step: int) -> bool:
        """Whether a branch may begin this step of phase I. If not, the branches meet and the run ends there."""
        ...

    def updated(self, branch: str, step: int, metrics: dict[str, float]) -> None:
        """One branch has made one update."""
        ...

    async def met(self, stretch: Stretch) -> None:
        """All branches have made the steps of a stretch that they were allowed to begin, and stand at the same step."""
        ...


async def rlvr(branch: BranchHandle, steps: range, batches: Batches, observer: Observer) -> None:
    """Phase I for one branch: GRPO on its own capability. The branches need not wait for one another."""
    for step in takewhile(observer.may_begin, steps):
        observer.updated(branch.name, step, await branch.update(await native(branch, step, batches)))


async def native(branch: BranchHandle, step: int, batches: Batches) -> list[Part]:
    """A batch of GRPO on the branch's own capability."""
    rollouts = await branch.collect(branch.capability, step, batches.prompts, batches.rollouts_per_prompt)
    return [Part("native", rollouts)]


async def mutual_opd(
    branches: Mapping[str, BranchHandle],
    edges: Sequence[Edge],
    step: int,
    batches: Batches,
    observer: Observer,
    *,
    version: int,
) -> None:
    """One step of phase II. A branch updates once its lessons are scored and it has scored all that it teaches.

    So no branch waits for one that it has nothing to do with. Teachers score with their weights at `version`: those at
    the beginning of the step or, where teachers are held, those at the beginning of the phase.
    """
    lessons = [(edge, ensure_future(lesson(branches, edge, step, batches, version=version))) for edge in edges]

    async def update(branch: BranchHandle) -> dict[str, float]:
        own = await native(branch, step, batches) if batches.native_in_opd else []
        await gather(*(part for edge, part in lessons if branch.name in (edge.student, edge.teacher)))
        return await branch.update([*own, *(part.result() for edge, part in lessons if edge.student == branch.name)])

    updates, _ = await gather(gather(*map(update, branches.values())), gather(*(part for _, part in lessons)))
    for name, metrics in zip(branches, updates, strict=True):
        observer.updated(name, step, metrics)


async def lesson(
    branches: Mapping[str, BranchHandle], edge: Edge, step: int, batches: Batches, *, version: int
) -> Part:
    """The OPD part of an edge: the student answers the teacher's prompts, and the teacher at `version` scores them.

    With `batches.teachers_answer` the teacher answers its prompts itself, which makes the distillation off-policy.
    """
    answers = branches[edge.teacher if batches.teachers_answer else edge.student]
    capability = branches[edge.teacher].capability
    rollouts = await answers.collect(capability, step, batches.opd_prompts, batches.opd_rollouts_per_prompt, visit=True)
    return await scored(branches, edge, rollouts, version=version, by_teacher=batches.teachers_answer)


async def scored(
    branches: Mapping[str, BranchHandle], edge: Edge, rollouts: Rollouts, *, version: int, by_teacher: bool
) -> Part:
    """The part of an edge: the rollouts of its student, or `by_teacher` of its teacher, with the teacher's score."""
    score = await branches[edge.teacher].score(rollouts)
    return Part(f"from_{edge.teacher}", rollouts, edge.weight, score, teacher_version=version, by_teacher=by_teacher)


@dataclass(frozen=True)
class Consolidation:
    """Phase III: the student, and the edges from the resting branches that teach it."""

    student: BranchHandle
    edges: Sequence[Edge]


async def begin(
    student: BranchHandle, branches: Mapping[str, BranchHandle], merge: Merge | None, exchange: Exchange | None
) -> None:
    """Prepare the student for phase III: the merge as its first weights, else its own; an optimizer without moments."""
    if merge:
        async with merged(branches, merge, exchange) as weights:
            await student.load_weights(weights)
    else:
        await student.start_optimizer()


async def consolidation(
    branches: Mapping[str, BranchHandle],
    consolidated: Consolidation,
    step: int,
    batches: Batches,
    observer: Observer,
    *,
    version: int,
) -> None:
    """One step of phase III. The teachers rest at `version`.

    A student that is one of the branches may have a native batch too, as in phase II.
    """
    student = consolidated.student
    everybody = {**branches, student.name: student}
    own = await native(student, step, batches) if batches.native_in_opd and student.name in branches else []
    edges = consolidated.edges
    taught = await gather(*(lesson(everybody, edge, step, batches, version=version) for edge in edges))
    observer.updated(student.name, step, await student.update([*own, *taught]))


async def replay(
    branches: Mapping[str, BranchHandle],
    consolidated: Consolidation,
    place: int,
    step: int,
    observer: Observer,
    *,
    version: int,
) -> None:
    """One step of phase III on rollouts that are counted already.

    Each teacher gives the batch at `place` among those of its RLVR that it kept, and scores it as it is now.
    """
    student, edges = consolidated.student, consolidated.edges
    kept = await gather(*(branches[edge.teacher].replay(place) for edge in edges))
    pairs = zip(edges, kept, strict=True)
    parts = await gather(
        *(scored(branches, edge, rollouts, version=version, by_teacher=True) for edge, rollouts in pairs)
    )
    observer.updated(student.name, step, await student.update(parts))


async def restart(branches: Mapping[str, BranchHandle], weights: Path) -> None:
    """All branches go on from these weights, with optimizers without moments."""
    await gather(*(branch.load_weights(weights) for branch in branches.values()))


@asynccontextmanager
async def merged(
    branches: Mapping[str, BranchHandle],
    merge: Merge | None,
    exchange: Exchange | None,
    consolidated: Consolidation | None = None,
) -> AsyncIterator[Path]:
    """theta*: the merge of the K branches, or the weights of the student that they have taught.

    The base is not one of the branches. The folder of these weights is there until the end of the block.
    """
    assert exchange
    with exchange() as folder:
        theta = folder / MERGED
        if consolidated:
            await consolidated.student.write_weights(theta)
        else:
            assert merge
            parts = {name: folder / name for name in branches}
            await gather(*(branches[name].write_weights(part) for name, part in parts.items()))
            merge(parts, theta)
        yield theta
