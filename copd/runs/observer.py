"""The records of a run while it trains: metrics of every step, measures at the ends of phases, checkpoints."""

from __future__ import annotations

import time
from asyncio import ensure_future, gather
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Protocol

from copd.errors import CheckpointError, MergeError, wrong_in
from copd.handles import Answering, BranchHandle
from copd.measure.behaviour import Behaviour, measure_behaviour, measure_one_model
from copd.measure.compare import lead_of_teacher
from copd.measure.evaluate import Accuracy, Answers, answer, answer_as_one, tabulate
from copd.measure.health import Health
from copd.measure.ledger import Ledger
from copd.recipe.evaluation import Evaluation
from copd.recipe.sections import CheckpointSection
from copd.runs.checkpoint import (
    CHECKPOINTS,
    SAVES,
    Checkpoint,
    Saving,
    complete,
    new_checkpoint,
    part_of,
    remove_superseded,
)
from copd.runs.lifecycle import Stop
from copd.runs.pictures import keep_media
from copd.runs.remaining import EVALUATING, MEASURING, SAVING
from copd.runs.runlog import METRICS, SAMPLES, JsonLines, read_lines
from copd.runs.tracked import numbers_of, shown
from copd.runs.trackers import Log
from copd.runs.validations import Best, every_steps, validation_due
from copd.schedule import Phase, Position, Schedule, Stretch
from copd.topology import Edge
from copd.types import Split, StateFile

START = "start"
"""The phase of what is measured before the first step."""


class Display(Protocol):
    """Shows the run to a person."""

    def updated(self, branch: str, step: int, position: Position, metrics: dict[str, float]) -> None: ...

    def measured(self, behaviour: Behaviour) -> None: ...

    def warn(self, message: str) -> None: ...

    def evaluated(self, table: Sequence[Accuracy]) -> None: ...

    def stage(self, name: str, total: int = 0) -> AbstractContextManager[Callable[[], None]]: ...


class RunObserver:
    """The observer of `copd.phases`: writes `metrics.jsonl`, `samples.jsonl` with `media/`, and `checkpoints/`.

    `trained` gives the branches that a step of a phase trains. The updates of a step are written once all of these
    branches have made theirs. Checkpoints after the numbers of steps in `handovers` are kept, so that other runs can
    take the branches over. With `checkpoint.keep_best` that of the best validation is written and kept too, by the
    average of the `product`. `merge` makes the merge of the branches as they are, which validations then measure.
    """

    def __init__(
        self,
        folder: Path,
        branches: Mapping[str, BranchHandle],
        capabilities: Sequence[str],
        schedule: Schedule,
        edges: Sequence[Edge],
        *,
        trained: Callable[[Phase], Collection[str]],
        evaluation: Evaluation,
        checkpoint: CheckpointSection,
        stop: Stop,
        handovers: Collection[int] = (),
        product: str | None = None,
        merge: Callable[[], AbstractAsyncContextManager[Answering]] | None = None,
        display: Display,
        trackers: Sequence[Log] = (),
        health: Health | None = None,
    ) -> None:
        self.meet_every, self._handovers = checkpoint.every_steps, frozenset(handovers)
        self.meet_after: Collection[int] = self._handovers | set(every_steps(evaluation, schedule))
        self.ledger = Ledger()
        self.saving = Saving(folder / SAVES)
        self._health = health or Health()
        self._folder = folder
        self._branches = branches
        self._capabilities = list(capabilities)
        self._schedule = schedule
        self._edges = edges
        self._trained = trained
        self._evaluation = evaluation
        self._keep_last = checkpoint.keep_last
        self._best = Best(product) if checkpoint.keep_best else None
        self._merge = merge
        self._stop = stop
        self.may_begin = stop.may_begin
        self._display = display
        self._trackers = trackers
        self._metrics = JsonLines(folder / METRICS)
        self._samples = JsonLines(folder / SAMPLES)
        self._held_back: dict[int, dict[str, dict[str, float]]] = {}
        self._started = time.perf_counter()

    def updated(self, branch: str, step: int, metrics: dict[str, float]) -> None:
        here = self._schedule.position(step)
        self._held_back.setdefault(step, {})[branch] = metrics
        if all(len(found) == self._count_of(earlier) for earlier, found in self._held_back.items() if earlier <= step):
            self._note_updates(step)
        self._display.updated(branch, step, here, metrics)

    def _count_of(self, step: int) -> int:
        """How many branches this step trains."""
        return len(self._trained(self._schedule.position(step).phase))

    def _note_updates(self, last: int) -> None:
        """Note all updates up to a step in the order of steps and branches, whichever branch was first."""
        for step in sorted(step for step in self._held_back if step <= last):
            here, found = self._schedule.position(step), self._held_back.pop(step)
            for branch in (name for name in self._branches if name in found):
                self.note("update", step, branch=branch, cycle=here.cycle, phase=here.phase.value, **found[branch])

    async def met(self, stretch: Stretch) -> None:
        step = self._stop.last_of(stretch.steps)
        here = self._schedule.position(step)
        self._note_updates(step)
        counts = {name: await branch.counts() for name, branch in self._branches.items()}
        self.ledger.add(here.phase.value, counts, meet_within=here.phase is not Phase.RLVR)
        if here.ends_phase:
            await self.measure(step, here.phase.value)
        if validation_due(self._evaluation, here, step + 1):
            await self.validate(step)
        stopping = self._stop.asked
        due = here.ends_cycle or (step + 1) % self.meet_every == 0 or step + 1 in self._kept
        if stopping or due:
            with self._display.stage(SAVING, len(self._branches)) as saved:
                await self._save(step + 1, counts, saved)
        if stopping:
            self._stop.leave_if_asked()
        self._stop.met_after(step)

    async def begin(self) -> Behaviour:
        """`measure` and `validate` before the first step, when all branches are one model, which is asked once."""
        behaviour = await self._measure(-1, START, measure_one_model, len(self._capabilities))
        await self._validate(-1, answer_as_one, len(self._capabilities))
        return behaviour

    async def measure(self, step: int, phase: str) -> Behaviour:
        """Measure and note the behaviour of all pairs of branches, teachers' and students' accuracy, and samples."""
        return await self._measure(step, phase, measure_behaviour, len(self._branches) * len(self._capabilities))

    async def _measure(
        self, step: int, phase: str, measured: Callable[..., Awaitable[Behaviour]], parts: int
    ) -> Behaviour:
        settings = self._evaluation
        with self._display.stage(MEASURING, parts) as done:
            behaviour = await measured(
                self._branches,
                self._capabilities,
                problems=settings.behaviour_problems,
                ks=settings.overlap_k,
                done=done,
            )
        samples = [
            {"step": step, "phase": phase, **sample, **keep_media(self._folder, behaviour.shown[where])}
            for sample in behaviour.samples
            for where in [(sample["capability"], sample["problem"])]
        ]
        for sample in samples:
            self._samples.write(sample)
        for tracker in self._trackers:
            tracker.show(step, [shown(self._folder, sample) for sample in samples])
        self._compare_teachers(step, behaviour)
        measures = {name: value for name, value in vars(behaviour).items() if name not in ("samples", "shown", "right")}
        self.note("behaviour", step, phase=phase, **measures)
        self._display.measured(behaviour)
        return behaviour

    def _compare_teachers(self, step: int, behaviour: Behaviour) -> None:
        """Note teacher and student accuracy on the teacher's capability, and how far the teacher leads."""
        for edge in self._edges:
            teacher, student = (behaviour.accuracy[name][edge.teacher] for name in (edge.teacher, edge.student))
            lead = lead_of_teacher(*(behaviour.right[name, edge.teacher] for name in (edge.teacher, edge.student)))
            accuracies = {"teacher_accuracy": teacher, "student_accuracy": student}
            measured = {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
            self.note("teaching", step, **vars(edge), **accuracies, **measured)

    @property
    def _kept(self) -> frozenset[int]:
        """The numbers of steps whose checkpoints are kept, however old they are."""
        return self._handovers | ({self._best.steps} if self._best and self._best.steps else set())

    async def validate(self, step: int) -> None:
        """Note the greedy accuracy of every branch on every capability, on validation problems; of the merge too."""
        await self._validate(step, answer, len(self._branches) * len(self._capabilities))

    async def _validate(self, step: int, answered: Callable[..., Awaitable[list[Answers]]], parts: int) -> None:
        asked: dict[str, Any] = {"problems": self._evaluation.validation_problems, "pass_at": ()}
        async with AsyncExitStack() as passing:
            merge: list[Answering] = []
            if self._merge is not None:
                try:
                    merge.append(await passing.enter_async_context(self._merge()))
                except MergeError as error:
                    self.warn(step, "merge", f"the merge is not measured: {error}")
            stage = self._display.stage(EVALUATING, parts + len(merge) * len(self._capabilities))
            asked["done"] = passing.enter_context(stage)
            of_branches, of_merge = await gather(
                answered(list(self._branches.values()), self._capabilities, Split.VALIDATION, **asked),
                answer(merge, self._capabilities, Split.VALIDATION, **asked),
            )
        table = tabulate([*of_branches, *of_merge], ())
        self.note("accuracy", step, table=[cell.as_record() for cell in table])
        self._display.evaluated(table)

    def note(self, event: str, step: int, **values: Any) -> None:
        """Append one event to `metrics.jsonl`, and the warnings that it causes.

        `seconds` since this observer was made is the only time that is added.
        """
        seconds = round(time.perf_counter() - self._started, 3)
        record = {"event": event, "step": step, "seconds": seconds, **values}
        self._metrics.write(record)
        if self._best:
            self._best.see(record)
        for tracker in self._trackers:
            tracker.log(step, numbers_of(record))
        for fault in self._health.see(record):
            self.warn(step, fault.guard, fault.message, branch=fault.branch)

    def warn(self, step: int, guard: str, message: str, **where: Any) -> None:
        """Note and show a warning; the run goes on. Whether a warning is given must not depend on a clock."""
        self.note("warning", step, guard=guard, message=message, **where)
        self._display.warn(message if step < 0 else f"after step {step + 1}: {message}")

    async def _save(
        self, steps_done: int, counts: Mapping[str, Mapping[str, float]], saved: Callable[[], None]
    ) -> None:
        self.saving.begins()
        with new_checkpoint(self._folder / CHECKPOINTS, steps_done) as folder:
            names = list(self._branches)
            writing = {name: ensure_future(self._branches[name].write_state(part_of(folder, name))) for name in names}
            for each in writing.values():
                each.add_done_callback(lambda _: saved())
            written = await gather(*writing.values())
            parts = {name: part for name, part in zip(names, written, strict=True) if part is not None}
            if damaged := [name for name in names if name not in parts]:
                said = f"weights of branch {damaged[0]} are not finite: no checkpoint after this step"
                self.warn(steps_done - 1, "checkpoint", said, branch=damaged[0])
                return
            whole = self._completed(folder, steps_done, parts, counts)
        self.saving.ended(whole, steps_done)
        if costly := self.saving.warning():
            self._display.warn(costly)

    def _completed(
        self,
        folder: Path,
        steps_done: int,
        parts: Mapping[str, Sequence[StateFile]],
        counts: Mapping[str, Mapping[str, float]],
    ) -> Path:
        notes = {
            "counts": counts,
            "ledger": self.ledger.as_record(),
            "metrics_bytes": self._metrics.size,
            "samples_bytes": self._samples.size,
            "only_rlvr": steps_done <= self._schedule.steps_before_exchange,
        }
        self._metrics.sync()
        self._samples.sync()
        return complete(folder, steps_done, parts, notes, self._keep_last, beside=self._kept)

    def close(self) -> None:
        """Close all files, whichever of them fails: nothing more will be noted."""
        with ExitStack() as closing:
            for each in (self.saving, self._samples, self._metrics):
                closing.callback(each.close)
            self._note_updates(self._schedule.steps)

    def restart(self) -> None:
        """Remove what an attempt without a checkpoint has written."""
        self._metrics.truncate(0)
        self._samples.truncate(0)

    async def adopt(self, checkpoint: Checkpoint, experts: Sequence[str]) -> None:
        """Take over the experts of another run, and enter their cost in the ledger."""
        await self._read(checkpoint, experts)
        self.ledger = Ledger(checkpoint.notes["ledger"]).of(experts)
        cost = {name: value for name, value in self.ledger.as_record().items() if name != "seen"}
        self.note("experts", checkpoint.step - 1, taken_from=str(checkpoint.folder), **cost)

    async def resume(self, checkpoint: Checkpoint) -> None:
        """Put branches, ledger and records back to their state at the checkpoint, the newest of the run.

        Files that a killed process should have removed are removed. Raises CheckpointError, before a record is cut
        back, if branches or tensors do not fit the run, or if the run has fewer steps than the checkpoint.
        """
        if set(checkpoint.branches) != set(self._branches):
            held, wanted = (", ".join(names) for names in (checkpoint.branches, self._branches))
            raise CheckpointError(f"{checkpoint.folder}: holds the branches {held}; the run's are {wanted}")
        if checkpoint.step > self._schedule.steps:
            raise CheckpointError(f"{checkpoint.folder}: is beyond the {self._schedule.steps} steps of the run")
        await self._read(checkpoint, self._branches)
        self.ledger = Ledger(checkpoint.notes["ledger"])
        for lines, noted in ((self._metrics, "metrics_bytes"), (self._samples, "samples_bytes")):
            if lines.size < checkpoint.notes[noted]:
                self._display.warn(
                    f"{lines.path}: has {lines.size} bytes where the checkpoint of step {checkpoint.step} noted "
                    f"{checkpoint.notes[noted]}: what it told of earlier steps is incomplete"
                )
            lines.truncate(checkpoint.notes[noted])
        self._recall()
        remove_superseded(checkpoint.folder.parent, checkpoint.step, self._keep_last, self._kept)

    async def _read(self, checkpoint: Checkpoint, names: Collection[str]) -> None:
        """Each branch reads its own part."""
        counts = checkpoint.notes["counts"]
        await gather(*(self._branches[name].read_state(checkpoint.part(name), counts[name]) for name in names))

    def _recall(self) -> None:
        """Show the guards, and what knows the best step, the events noted so far.

        Their warnings have been given before and are not repeated.
        """
        path = self._metrics.path
        try:
            for event in read_lines(path):
                self._health.see(event)
                if self._best:
                    self._best.see(event)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: damaged, cannot resume: {wrong_in(error)}") from error
