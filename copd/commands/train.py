"""Recipe to run folder: build the branches, train them, merge, evaluate, report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from copd.algorithm import copd
from copd.assemble.assembled import Assembled, assembled
from copd.assemble.branches import make_health
from copd.assemble.places import placed
from copd.assemble.plan import Plan, handovers, make_plan, measures_merge
from copd.branches.local import finish
from copd.commands.cards import Cards
from copd.commands.export import merge_by_section, place_of
from copd.commands.manifest import check_done, new_manifest
from copd.commands.plan import check_fit
from copd.errors import LostBranchError, MergeError, OutOfMemoryError, RecipeError
from copd.handles import Answering, BranchHandle
from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import answer_in_rounds, tabulate
from copd.measure.health import MANY_TRUNCATED
from copd.model.folders import loader_of, model_folder, read_config
from copd.model.merging import merge_weights, pass_on_weights
from copd.model.policy import Policy
from copd.model.stored import StoredTensors
from copd.phases import Consolidation, Merge, merged
from copd.recipe.method_sections import DISTIL
from copd.recipe.model import Recipe
from copd.recipe.publish import published
from copd.recipe.reading import reread
from copd.runs.checkpoint import CHECKPOINTS, Checkpoint, latest_checkpoint
from copd.runs.experts import expert_checkpoint
from copd.runs.folder import check_folder, claim, record_forced, run_folder
from copd.runs.lifecycle import Stop, alone_in, saved_in
from copd.runs.observer import RunObserver
from copd.runs.remaining import EVALUATING, Remaining
from copd.runs.runlog import ANSWERS, REPORT, write_lines
from copd.runs.saved import result_of
from copd.runs.screen import Screen
from copd.runs.trackers import Log, check_trackers, opened_trackers
from copd.schedule import Phase
from copd.system.files import passing_folder, remove_passing_folders
from copd.types import BASE, MERGED, Split


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    screen: Screen | None = None,
    command: str | None = None,
) -> Path:
    """Run a recipe to the end and return its run folder.

    The folder is `runs/METHOD-seedSEED` unless `out` is given. It must be new or empty. With `resume` it may hold a run
    of the same recipe, data, base and versions. That run goes on from its last checkpoint; a complete run is only
    shown. With `force` too, these may have changed, which the manifest records, and cards may be too small by the plan.
    SIGTERM and SIGINT end the run with a checkpoint. `command` is what the user typed, for the manifest of a new run.

    Raises RecipeError, DataError, ModelFolderError, CheckpointError, RunFolderError, MergeError, WriteError,
    ProcessError, OutOfMemoryError or NonFiniteError; after a signal Stopped, which is a SystemExit.
    """
    if force and not resume:
        raise RecipeError("--force: found without --resume, which alone has a use for it; add --resume or leave it out")
    folder = run_folder(out, recipe.method, recipe.seed)
    plan = make_plan(recipe)
    check_trackers(recipe.trackers)
    screen = screen or Screen()
    with alone_in(folder), Stop(screen.warn, partial(saved_in, folder)) as stop:
        _train_alone(recipe, folder, plan, screen, stop, resume=resume, force=force, command=command)
    return folder


def _train_alone(
    recipe: Recipe,
    folder: Path,
    plan: Plan,
    screen: Screen,
    stop: Stop,
    *,
    resume: bool,
    force: bool,
    command: str | None,
) -> None:
    """`train` in a folder that this process has locked."""
    with assembled(recipe, screen.warn) as made:
        with screen.stage("data"):
            manifest = new_manifest(made, command)
        changes = check_folder(folder, manifest, resume, reread, force=force)
        table = [] if changes else result_of(folder)
        if table:
            screen.result(table, recipe.evaluation.split)
        else:
            if not (force or (folder / CHECKPOINTS).is_dir()):
                check_fit(made.recipe, made.tasks)
            remaining = Remaining(
                plan, made.evaluation, recipe.checkpoint, handovers(recipe), merge=measures_merge(recipe, plan)
            )
            screen.planned(folder, recipe.method, remaining)
            for change in changes:
                screen.warn(f"--force: {change}")
            for restarts in range(recipe.backend.restarts + 1):
                checkpoint = latest_checkpoint(folder / CHECKPOINTS, screen.warn) if resume or restarts else None
                if changes and checkpoint:
                    check_done(folder, plan, checkpoint.step)
                try:
                    with _logs(made, folder, checkpoint.step if checkpoint else 0, screen) as logs:
                        run = _Run(folder, made, plan, screen, checkpoint, manifest, changes, stop)
                        with closing(run.place), screen:
                            claim(folder, manifest)
                            finish(run.complete(logs))
                    break
                except LostBranchError as error:
                    screen.trained()
                    stop.leave_if_asked()
                    _give_up_or_tell(error, recipe.backend.restarts - restarts, screen)
                except OutOfMemoryError as error:
                    if not (folder / CHECKPOINTS).is_dir():
                        raise
                    more = "--resume --force with the change goes on from the last checkpoint"
                    raise OutOfMemoryError(f"{error}; {more}") from error
    if not table or not (folder / REPORT).is_file():
        from copd.report.page import write_report  # draws by matplotlib, which a run has no use for until here

        with screen.stage("report"):
            write_report(folder)
    model = folder / MERGED
    screen.finished(folder, loader_of(read_config(model)).auto_class.__name__ if model.is_dir() else None)


@contextmanager
def _logs(made: Assembled, folder: Path, first_step: int, screen: Screen) -> Iterator[list[Log]]:
    """The trackers' logs. They are opened before the model is loaded: a tracker that refuses is told at once."""
    asked = made.recipe.trackers
    own = [made.own(f"trackers.{i}") for i in range(len(asked))]
    with ExitStack() as opened:
        with screen.stage("opening the trackers") if asked else nullcontext():
            logs = opened.enter_context(opened_trackers(asked, folder, first_step, published(made.recipe), own))
        yield logs


def _give_up_or_tell(error: LostBranchError, left: int, screen: Screen) -> None:
    """Warn that all branches go on from the last checkpoint. Raises LostBranchError if no restart is `left`."""
    if not left:
        raise LostBranchError(
            f"{error}; nothing that was saved is lost, --resume goes on from the last checkpoint"
        ) from error
    screen.warn(f"{error}; all branches go on from the last checkpoint, {left - 1} restarts are left after this one")


class _Run:
    """One run: the objects that all steps of `complete` share."""

    def __init__(
        self,
        folder: Path,
        made: Assembled,
        plan: Plan,
        screen: Screen,
        checkpoint: Checkpoint | None,
        manifest: Mapping[str, Any],
        changes: list[str],
        stop: Stop,
    ) -> None:
        self.folder, self.made, self.recipe, self.plan, self.screen = folder, made, made.recipe, plan, screen
        self.evaluation = made.evaluation
        self.checkpoint, self.manifest, self.changes, self.stop = checkpoint, manifest, changes, stop
        self.experts = None if checkpoint else self._existing_experts(manifest)
        with screen.stage("loading the model"):
            _ = made.loaded
        with screen.stage("checking its path"):
            self.base = made.base
        home = model_folder(self.recipe.model.path, revision=self.recipe.model.revision)
        self.cards = Cards(self.recipe, plan, loader_of(self.base.model.config), home)
        starting = "making branches" if made.recipe.backend.kind == "local" else "starting processes"
        with screen.stage(starting, len(plan.branches)) as started:
            self.place = placed(made, plan.branches, started)

    def _existing_experts(self, manifest: Mapping[str, Any]) -> Checkpoint | None:
        run = self.recipe.experts.run
        if run is None:
            return None
        at_most = self.plan.schedule.steps_before_exchange
        replay = self.plan.schedule.replay_steps
        return expert_checkpoint(Path(run), manifest, self.plan.learners, at_most, self.screen.warn, replay=replay)

    async def complete(self, logs: Sequence[Log]) -> None:
        remove_passing_folders(self.folder)
        base, handles = self.place.evaluated(BASE, self.base), self.place.branches
        observer = RunObserver(
            self.folder,
            handles,
            self.plan.capabilities,
            self.plan.schedule,
            self.plan.taught,
            trained=self.plan.trained,
            evaluation=self.evaluation,
            checkpoint=self.recipe.checkpoint,
            stop=self.stop,
            handovers=handovers(self.recipe),
            product=self.plan.product,
            merge=partial(self._measured_merge, handles) if measures_merge(self.recipe, self.plan) else None,
            display=self.screen,
            health=make_health(self.recipe, self.plan.taught, in_half=self.place.in_half),
            trackers=logs,
        )
        try:
            await self._train(handles, observer)
            await self._conclude(base, handles, observer)
        finally:
            observer.close()

    async def _train(self, handles: Mapping[str, BranchHandle], observer: RunObserver) -> None:
        start = 0
        if self.checkpoint:
            start = self.checkpoint.step
            await observer.resume(self.checkpoint)
        else:
            observer.restart()
        if self.changes:
            record_forced(self.folder, self.manifest, start, self.changes)
            self.changes.clear()
        if not self.checkpoint:
            self._warn_of_truncation(observer, await observer.begin())
            if self.experts:
                start = self.experts.step
                await observer.adopt(self.experts, self.plan.learners)
                await observer.measure(start - 1, Phase.RLVR.value)
        self.screen.started(start, self.place.peak)
        with self.stop.after_step(start):
            await self._method(handles, observer, start)
        self.screen.trained()

    def _warn_of_truncation(self, observer: RunObserver, start: Behaviour) -> None:
        """Warn if the length limit truncates many responses of the base. At the start all branches equal the base."""
        limit = self.recipe.sampling.max_new_tokens
        for task, share in next(iter(start.truncated_rate.values())).items():
            if share > MANY_TRUNCATED:
                said = f"sampling.max_new_tokens={limit} truncates {share:.0%} of the base's responses in {task}"
                observer.warn(-1, "length", f"{said}, which then earn 0")

    async def _method(self, handles: Mapping[str, BranchHandle], observer: RunObserver, start: int) -> None:
        plan = self.plan
        learners = {name: handles[name] for name in plan.learners}
        await copd(
            learners,
            plan.edges,
            plan.schedule,
            plan.batches,
            observer,
            start,
            merge=self._merge(),
            exchange=self._exchange,
            consolidated=self._consolidated(handles),
        )

    def _consolidated(self, handles: Mapping[str, BranchHandle]) -> Consolidation | None:
        student = self.plan.student
        return Consolidation(handles[student], self.plan.lessons) if student else None

    def _merge(self) -> Merge | None:
        """Makes one model's weights of the learners', also the first ones of a student; None: it keeps its own."""
        section, choice = self.recipe.merge, self.recipe.mopd.student
        if self.recipe.method == "static_opd" or (self.recipe.method == "mopd" and choice == BASE):
            return None
        if self.recipe.method == "mopd" and choice != "mean":
            return partial(pass_on_weights, of=choice)
        if self.recipe.method == "mopd" or section.method == DISTIL:
            return partial(merge_weights, method="mean", settings={})
        method = self.made.own("merge.method") or section.method
        return partial(merge_by_section, method, section, self.base)

    def _exchange(self) -> AbstractContextManager[Path]:
        """A folder in the run folder, which is on storage that all branches share."""
        return passing_folder(self.folder)

    async def _merged(self, handles: Mapping[str, BranchHandle]) -> Policy:
        """The merge of the branches as they are now. Raises MergeError."""
        policy = self.base.clone()
        async with merged(handles, self._merge(), self._exchange) as weights:
            policy.load_weights(StoredTensors(weights, MERGED))
        return policy

    @asynccontextmanager
    async def _measured_merge(self, handles: Mapping[str, BranchHandle]) -> AsyncIterator[Answering]:
        """The merge while it is measured. After that it leaves its card."""
        policy = await self._merged(handles)
        yield self.place.evaluated(MERGED, policy)
        policy.to("cpu")
        torch.cuda.empty_cache()  # a branch is on this card too

    async def _conclude(self, base: Answering, handles: Mapping[str, BranchHandle], observer: RunObserver) -> None:
        """Merge, export, evaluate on test problems, and write the last lines of the record."""
        models: list[Answering] = [base, *handles.values()]
        await self._save(handles, models)
        await self._evaluate(models, observer)

    async def _save(self, handles: Mapping[str, BranchHandle], models: list[Answering]) -> None:
        """Export branches and merge; the merge joins the models that are evaluated.

        The branches' weights travel first: their files are gone before those of the models take room on the disk. If
        the merge fails, the branches are exported all the same. Raises MergeError.
        """
        dtype, policy, failure = self.recipe.model.export_dtype, None, None
        if self.plan.merges:
            try:
                with self.screen.stage("merging"):
                    policy = await self._merged(handles)
            except MergeError as error:
                failure = error
        with self.screen.stage("saving the models", len(handles)) as saved:
            for name, branch in handles.items():
                await branch.save(self.folder / place_of(name), self.cards.card(name), dtype)
                saved()
        if failure is not None:
            raise failure
        if policy is not None:
            policy.save(self.folder / MERGED, self.cards.card(MERGED), dtype)
            models.append(self.place.evaluated(MERGED, policy))

    async def _evaluate(self, models: Sequence[Answering], observer: RunObserver) -> None:
        """The final table and the ledger."""
        settings, last = self.evaluation, self.plan.schedule.steps - 1
        if settings.models == "product" and self.plan.product:
            models = [model for model in models if model.name == self.plan.product]
        asked = self.plan.capabilities, Split(settings.split)
        with self.screen.stage(EVALUATING, len(models) * len(self.plan.capabilities)) as done:
            limits: dict[str, Any] = {"problems": settings.problems, "pass_at": settings.pass_at, "done": done}
            answers = await answer_in_rounds(models, self.place.rounds(models), *asked, **limits)
        table = tabulate(answers, settings.pass_at)
        write_lines(self.folder / ANSWERS, [a.as_record() for a in answers])
        for path in (self.folder / MERGED, *(self.folder / "branches").glob("*")):
            if path.is_dir():
                self.cards.write(path, path.name, table)
        made_for = {"product": self.plan.product} if self.plan.product else {}
        spent = {**observer.ledger.as_record(), **observer.saving.as_record()}
        observer.note("ledger", last, **spent, planned_rollouts=self.plan.rollouts, **made_for)
        observer.note("result", last, table=[cell.as_record() for cell in table])
        self.screen.result(table, settings.split)
