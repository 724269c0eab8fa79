"""The phases of CoPD (method.md sections 3 to 5), and the merge.

A branch is a handle: its calls are awaited. The phases pass its rollouts on unread, and do not know where the branch
lives. A part of an update without a teacher is native GRPO; a part with a teacher is OPD. Each part has its own
denominator.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from torch import Tensor

from copd.schedule import Batches, Stretch
from copd.topology import Edge
from copd.types import BranchHandle, Part, Rollouts

Merge = Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]]


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
    """One step of phase II. All branches score before any of them updates.

    They score with their weights at `version`: those at the beginning of the step or, where teachers are held, those at
    the beginning of the phase.
    """
    students = list(branches.values())
    on_their_own = students if batches.native_in_opd else []
    natives = gather(*(native(branch, step, batches) for branch in on_their_own))
    own, taught = await gather(natives, lessons(branches, edges, step, batches, version=version))
    batch_of = {branch.name: batch for branch, batch in zip(on_their_own, own, strict=True)}
    parts = {name: [*batch_of.get(name, ()), *taught.get(name, ())] for name in branches}
    updates = await gather(*(branch.update(parts[branch.name]) for branch in students))
    for branch, metrics in zip(students, updates, strict=True):
        observer.updated(branch.name, step, metrics)


async def lessons(
    branches: Mapping[str, BranchHandle], edges: Sequence[Edge], step: int, batches: Batches, *, version: int
) -> dict[str, list[Part]]:
    """The OPD parts by student. Students answer their teachers' prompts; teachers at `version` score the responses.

    With `batches.teachers_answer` each teacher answers its prompts itself, which makes the distillation off-policy.
    """
    visits = await gather(
        *(
            branches[edge.teacher if batches.teachers_answer else edge.student].collect(
                branches[edge.teacher].capability,
                step,
                batches.opd_prompts,
                batches.opd_rollouts_per_prompt,
                visit=True,
            )
            for edge in edges
        )
    )
    parts = await scored(branches, edges, visits, version=version, by_teacher=batches.teachers_answer)
    taught: dict[str, list[Part]] = {}
    for edge, part in zip(edges, parts, strict=True):
        taught.setdefault(edge.student, []).append(part)
    return taught


async def scored(
    branches: Mapping[str, BranchHandle],
    edges: Sequence[Edge],
    answered: Sequence[Rollouts],
    *,
    version: int,
    by_teacher: bool,
) -> list[Part]:
    """The part of each edge: the rollouts of its student, or `by_teacher` of its teacher, with the teacher's score."""
    pairs = list(zip(edges, answered, strict=True))
    scores = await gather(*(branches[edge.teacher].score(rollouts) for edge, rollouts in pairs))
    return [
        Part(f"from_{edge.teacher}", rollouts, edge.weight, score, teacher_version=version, by_teacher=by_teacher)
        for (edge, rollouts), score in zip(pairs, scores, strict=True)
    ]


@dataclass(frozen=True)
class Consolidation:
    """Phase III: the student, and the edges from the resting branches that teach it."""

    student: BranchHandle
    edges: Sequence[Edge]


async def begin(student: BranchHandle, branches: Mapping[str, BranchHandle], merge: Merge | None) -> None:
    """Prepare the student for phase III: the merge as its first weights, else its own; an optimizer without moments."""
    if merge:
        await student.load_weights(await merged(branches, merge))
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
    taught = await lessons(everybody, consolidated.edges, step, batches, version=version)
    observer.updated(student.name, step, await student.update([*own, *taught[student.name]]))


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
    parts = await scored(branches, edges, kept, version=version, by_teacher=True)
    observer.updated(student.name, step, await student.update(parts))


async def restart(branches: Mapping[str, BranchHandle], weights: Mapping[str, Tensor]) -> None:
    """All branches go on from these weights, with optimizers without moments."""
    await gather(*(branch.load_weights(weights) for branch in branches.values()))


async def merged(
    branches: Mapping[str, BranchHandle], merge: Merge | None, consolidated: Consolidation | None = None
) -> Mapping[str, Tensor]:
    """theta*: the merge of the K branches, or the weights of the student that they have taught.

    The base is not one of the branches.
    """
    if consolidated:
        return await consolidated.student.weights()
    assert merge
    return merge(await gather(*(branch.weights() for branch in branches.values())))
