"""Recipe to run folder: build the branches, train them, merge, evaluate, report."""

from __future__ import annotations

import asyncio
import json
import logging
import platform
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from copd.algorithm import copd, merged
from copd.backends.local import LocalActor, LocalBranch
from copd.baselines import independent
from copd.branch import Actor, Branch, SamplingSettings
from copd.config import Recipe
from copd.errors import CheckpointError, MergeError, RecipeError
from copd.files import replace_text, sha256
from copd.maths import merge as merges
from copd.measure.evaluate import Accuracy, accuracies, evaluate
from copd.model.export import save_policy
from copd.model.learner import Learner
from copd.model.load import compute_on, model_folder, write_checksums
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.model.tiny import tiny_model, tiny_processor
from copd.model.warmup import WarmupPlan, warm_up
from copd.report.page import REPORT, write_report
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.display import Screen
from copd.runs.observer import RunObserver
from copd.runs.plan import Plan, make_plan
from copd.runs.runlog import RUN_MANIFEST, read_lines
from copd.tasks.digits import CAPABILITIES, CONVENTIONS, Digits
from copd.tasks.mixture import Mixture
from copd.types import Split, Task

T = TypeVar("T")
logger = logging.getLogger(__name__)
RESUMED = ("recipe", "branch_order", "base_sha256")
"""What must not change between the parts of a run."""
MERGES = {"mean": merges.mean}
PROBED_PROBLEMS = 64
WARMED_UP_AT = {"builtin:digits": 1.0}
"""The share of conflict that a base has seen."""
BASE_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# A tiny Qwen3-VL of partial skill

The base of copd's embedded world: arithmetic on typed and handwritten digits, {conflict:.0%} of it under conflicting
conventions. Built by `copd warmup --conflict {conflict}` ({plan}).
"""


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
    _check_folder(folder, manifest, resume)
    if (folder / REPORT).is_file():
        screen.result(result_of(folder))
    else:
        screen.planned(folder, recipe.method, plan)
        run = _Run(folder, recipe, plan, screen)
        _claim(folder, manifest)
        with screen:
            _await(run.complete(resume))
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
        if max(recipe.evaluation.overlap_k) > self.base.allowed_tokens:
            raise RecipeError(
                f"evaluation.overlap_k: {max(recipe.evaluation.overlap_k)} is larger than the "
                f"{self.base.allowed_tokens} tokens of the masked vocabulary"
            )
        path_warnings = check_problems(self.base, self.tasks, recipe.sampling.max_new_tokens)
        for warning in [*_conflict_warnings(recipe), *path_warnings]:
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
        table = await evaluate(
            models, self.plan.fields, Split.TEST, problems=settings.problems, pass_at=settings.pass_at
        )
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


def load_policy(recipe: Recipe, path: str | None = None) -> Policy:
    """The recipe's base, or the model at `path`, as a policy on the recipe's device."""
    device, autocast = compute_on(recipe.model.device, recipe.model.dtype)
    return Policy.from_pretrained(
        model_folder(path or recipe.model.path),
        device=device,
        autocast=autocast,
        micro_batch_tokens=recipe.model.micro_batch_tokens,
    )


def make_tasks(recipe: Recipe) -> dict[str, Task]:
    """The task of every branch of the recipe, by the branch's name."""
    return {
        name: Digits(**branch.task.model_dump(exclude={"kind"}), seed=recipe.seed)
        for name, branch in recipe.branches.items()
    }


def check_problems(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> list[str]:
    """Look at the first problems of every task before anything is trained; warnings about the path taken.

    Raises RecipeError naming the branch whose prompts, with a response, are longer than the model's context.
    """
    warnings = []
    context = policy.context
    for name, task in tasks.items():
        problems = [task.problem(split, i) for split in Split for i in range(PROBED_PROBLEMS)]
        longest = max(policy.encoder.lengths(problems))
        if longest + max_new_tokens > context:
            raise RecipeError(
                f"branches.{name}.task: a prompt has {longest} tokens; with sampling.max_new_tokens={max_new_tokens} "
                f"that is more than the model's context of {context}"
            )
        if warning := settle_path(policy, problems[:3]):
            warnings.append(f"branches.{name}: {warning}")
            break
    return warnings


def _conflict_warnings(recipe: Recipe) -> list[str]:
    """A warning for every field whose share of conflict is not the one that the base was warmed up at."""
    seen = WARMED_UP_AT.get(recipe.model.path)
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in ((name, branch.task.conflict) for name, branch in recipe.branches.items())
        if seen is not None and share != seen
    ]


def evaluate_models(recipe: Recipe, paths: Sequence[str]) -> list[Accuracy]:
    """Greedy accuracy and pass@k of model folders on the recipe's fields, on test problems; one in memory at a time.

    Raises ModelFolderError for a folder that is not there before any model is loaded.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path in paths:
        model_folder(path, "MODEL")
    return [cell for path in paths for cell in _evaluate_model(recipe, path)]


def _evaluate_model(recipe: Recipe, path: str) -> list[Accuracy]:
    tasks, settings = make_tasks(recipe), recipe.evaluation
    policy = load_policy(recipe, path)
    for warning in check_problems(policy, tasks, recipe.sampling.max_new_tokens):
        logger.warning("%s: %s", path, warning)
    sampling = SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)
    model = LocalActor(Actor(path, -1, policy, tasks, sampling))
    return _await(evaluate([model], list(tasks), Split.TEST, problems=settings.problems, pass_at=settings.pass_at))


def _await(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _occupied(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _check_folder(folder: Path, manifest: Mapping[str, Any], resume: bool) -> None:
    """The run folder must be new or empty; to resume, it may hold a run of the same recipe from the same base."""
    path = folder / RUN_MANIFEST
    if resume and path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            before = {key: found[key] for key in RESUMED}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged, cannot resume: {error!r}") from error
        for key in RESUMED:
            if before[key] != manifest[key]:
                raise CheckpointError(f"{folder}: cannot resume: {_difference(key, before[key], manifest[key])}")
    elif _occupied(folder):
        hint = f"it holds no {RUN_MANIFEST}" if resume else "--resume goes on with the run in it"
        raise RecipeError(f"--out {folder}: is not empty; give another folder ({hint})")


def _claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the run folder, and its manifest where there is none yet."""
    path = folder / RUN_MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            replace_text(path, json.dumps(manifest, indent=1))
    except OSError as error:
        raise RecipeError(f"--out {folder}: cannot be written: {error}") from error


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


def _difference(path: str, before: Any, now: Any) -> str:
    """The first value in which two nested mappings differ, with its path."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in {**before, **now} if before.get(k) != now.get(k))
        return _difference(f"{path}.{key}", before.get(key), now.get(key))
    return f"{path} was {before!r} and is now {now!r}"


def build_base(folder: Path, *, conflict: float, steps: int | None = None, screen: Screen | None = None) -> None:
    """Initialise a tiny Qwen3-VL, warm it up on all three capabilities and all conventions, and save it with sums.

    Raises RecipeError where `folder` is not empty.
    """
    if _occupied(folder):
        raise RecipeError(f"{folder}: is not empty; give another folder")
    processor = tiny_processor()
    policy = Policy(tiny_model(processor), processor)
    plan = WarmupPlan() if steps is None else WarmupPlan(steps=steps)
    tasks = [Digits(c, seed=plan.seed, conflict=conflict, conventions=CONVENTIONS) for c in CAPABILITIES]
    warm_up(policy, tasks, plan, (screen or Screen()).warmed)
    save_policy(policy, folder, BASE_CARD.format(conflict=conflict, plan=plan))
    write_checksums(folder)
