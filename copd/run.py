"""Recipe to run folder: build the branches, train them, merge, evaluate, report."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from copd.algorithm import copd, merged
from copd.assemble import check_overlap, check_problems, conflict_warnings, load_policy, make_tasks
from copd.backends.local import LocalActor, LocalBranch, finish
from copd.baselines import independent
from copd.branch import Actor, Branch, SamplingSettings
from copd.config import Recipe
from copd.errors import MergeError
from copd.files import sha256
from copd.maths import merge as merges
from copd.measure.evaluate import Accuracy, accuracies, answer, tabulate
from copd.model.learner import Learner
from copd.model.load import model_folder
from copd.report.page import REPORT, write_report
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.display import Screen
from copd.runs.folder import check_folder, claim
from copd.runs.observer import RunObserver
from copd.runs.plan import Plan, make_plan
from copd.runs.runlog import ANSWERS, read_lines, write_lines
from copd.tasks.mixture import Mixture
from copd.types import Split, Task

MERGES = {"mean": merges.mean}


def train(recipe: Recipe, out: str | Path | None = None, *, resume: bool = False, screen: Screen | None = None) -> Path:
    """Run a recipe to the end and return its run folder.

    The folder is `runs/METHOD-seedSEED` unless `out` is given. It must be new or empty; with `resume` it may hold a run
    of the same recipe, which goes on from its last checkpoint, or is only shown where it is complete. Raises
    RecipeError, ModelFolderError, CheckpointError, MergeError or NonFiniteError.
    """
    folder = Path(out) if out else Path("runs") / f"{recipe.method}-seed{recipe.seed}"
    plan = make_plan(recipe)
    screen = screen or Screen()
    manifest = _manifest(recipe)
    check_folder(folder, manifest, resume)
    if (folder / REPORT).is_file():
        screen.result(result_of(folder))
    else:
        screen.planned(folder, recipe.method, plan)
        run = _Run(folder, recipe, plan, screen)
        claim(folder, manifest)
        with screen:
            finish(run.complete(resume))
        write_report(folder)
    screen.finished(folder)
    return folder


class _Run:
    """One run: the objects that the steps of `complete` share."""

    def __init__(self, folder: Path, recipe: Recipe, plan: Plan, screen: Screen) -> None:
        self.folder, self.recipe, self.plan, self.screen = folder, recipe, plan, screen
        torch.set_num_threads(recipe.model.threads_per_branch)
        self.tasks = make_tasks(recipe)
        self.sampling = SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)
        self.base = load_policy(recipe)
        check_overlap(recipe, self.base)
        path_warnings = check_problems(self.base, self.tasks, recipe.sampling.max_new_tokens)
        for warning in [*conflict_warnings(recipe), *path_warnings]:
            screen.warn(warning)
        self.branches = self._branches()

    def _branches(self) -> dict[str, Branch]:
        tasks: dict[str, Task] = {**self.tasks, "mixed": Mixture("mixed", tuple(self.tasks.values()))}
        return {name: self._branch(name, i, tasks) for i, name in enumerate(self.plan.branches)}

    def _branch(self, name: str, index: int, tasks: Mapping[str, Task]) -> Branch:
        policy = self.base.clone()
        learner = Learner(
            policy,
            **self.recipe.optimizer.model_dump(),
            clip_low=self.recipe.grpo.clip_low,
            clip_high=self.recipe.grpo.clip_high,
        )
        return Branch(
            name, index, policy, tasks, self.sampling, field=name, learner=learner, clamp=self.recipe.opd.clamp
        )

    async def complete(self, resume: bool) -> None:
        handles = {name: LocalBranch(branch) for name, branch in self.branches.items()}
        observer = RunObserver(
            self.folder,
            handles,
            self.plan.fields,
            self.plan.schedule,
            self.plan.edges,
            evaluation=self.recipe.evaluation,
            checkpoint=self.recipe.checkpoint,
            display=self.screen,
        )
        checkpoint = latest_checkpoint(self.folder / "checkpoints") if resume else None
        start = 0
        if checkpoint:
            await observer.resume(checkpoint)
            start = checkpoint.step
        else:
            observer.restart()
            await observer.measure(-1, "start")
            await observer.validate(-1)
        self.screen.started(start)
        if self.recipe.method == "copd":
            await copd(handles, self.plan.edges, self.plan.schedule, self.plan.batches, observer, start)
        else:
            await independent(handles, self.plan.schedule, self.plan.batches, observer, start)
        await self._conclude(handles, observer)

    async def _conclude(self, handles: Mapping[str, LocalBranch], observer: RunObserver) -> None:
        """Merge, export, evaluate on test problems; the last lines of the record."""
        models = [LocalActor(Actor("base", -1, self.base, self.tasks, self.sampling)), *handles.values()]
        for name, branch in self.branches.items():
            branch.save(self.folder / "branches" / name, self._card(f"branch {name}"))
        if self.recipe.method == "copd" and len(handles) > 1:
            policy = self.base.clone()
            try:
                policy.load_weights(await merged(handles, MERGES[self.recipe.merge.method]))
            except ValueError as error:
                raise MergeError(str(error)) from error
            actor = Actor("merged", -1, policy, self.tasks, self.sampling)
            actor.save(self.folder / "merged", self._card("the merge of its branches"))
            models.append(LocalActor(actor))
        settings, last = self.recipe.evaluation, self.plan.schedule.steps - 1
        answers = await answer(
            models, self.plan.fields, Split.TEST, problems=settings.problems, pass_at=settings.pass_at
        )
        table = tabulate(answers, settings.pass_at)
        write_lines(self.folder / ANSWERS, [a.as_record() for a in answers])
        observer.note("ledger", last, **observer.ledger.as_record(), planned_rollouts=self.plan.rollouts)
        observer.note("result", last, table=[cell.as_record() for cell in table])
        self.screen.result(table)

    def _card(self, what: str) -> str:
        return (
            f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n"
            f"# {what} of a copd run\n\nMethod `{self.recipe.method}`, seed {self.recipe.seed}, "
            f"base `{self.recipe.model.path}`, {self.plan.rollouts} rollouts, fields {', '.join(self.plan.fields)}.\n\n"
            "Load with `AutoModelForImageTextToText.from_pretrained(folder)`. The generation config's "
            "`suppress_tokens` is the vocabulary mask the model was trained under: keep it when sampling.\n\n"
            f"Recipe:\n\n```json\n{self.recipe.model_dump_json(indent=1)}\n```\n"
        )


def result_of(folder: Path) -> list[Accuracy]:
    """The final table of a finished run."""
    return next(accuracies(r["table"]) for r in read_lines(folder / "metrics.jsonl") if r["event"] == "result")


def _manifest(recipe: Recipe) -> dict[str, Any]:
    base = model_folder(recipe.model.path)
    return {
        "recipe": recipe.model_dump(mode="json"),
        "branch_order": list(recipe.branches),
        "seed": recipe.seed,
        "base_sha256": {path.name: sha256(path) for path in sorted(base.glob("*.safetensors"))},
        "versions": {name: version(name) for name in ("copd", "torch", "transformers")},
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
