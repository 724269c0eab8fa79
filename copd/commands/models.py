"""Models without a run: compared side by side, merged, built anew, or asked which rows they can learn from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from copd.assemble.branches import make_sampling
from copd.assemble.parts import load_policy, make_grader
from copd.assemble.preflight import check_overlap, check_problems
from copd.assemble.rows import make_rows, rows_section
from copd.assemble.tasks import make_tasks
from copd.branches.branch import Actor, generator_of
from copd.branches.local import LocalActor, finish
from copd.errors import DataError, RecipeError
from copd.measure.compare import Difference, differences
from copd.measure.disputes import CapabilityBehaviour, observe
from copd.measure.evaluate import AVERAGE, Accuracy, answer, evaluate, right_answers, tabulate
from copd.measure.passrates import PassRates
from copd.model.export import save_policy
from copd.model.load import model_folder, write_checksums
from copd.model.merging import MergedFolders, ModelFolder, write_merged
from copd.model.policy import Policy
from copd.model.tiny import tiny_model, tiny_processor
from copd.model.vocabulary import check_same_vocabulary
from copd.model.warmup import WarmupPlan, warm_up
from copd.recipe.model import Recipe
from copd.recipe.sections import MergeSection
from copd.rewards.grading import Grader
from copd.rows.copies import check_copy, write_copy
from copd.rows.rows import Rows
from copd.runs.folder import occupied
from copd.runs.screen import Screen
from copd.tasks.digits import CAPABILITIES, UNDECIDED, Digits
from copd.types import Split, Task

logger = logging.getLogger(__name__)
ROLES = ("student", "teacher")
BASE_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# A tiny Qwen3-VL of partial skill

The base of copd's embedded world: arithmetic on typed and handwritten digits, {conflict:.0%} of it under conflicting
conventions. Built by `copd warmup --conflict {conflict}` ({plan}).
"""
MERGE_CARD = """---
library_name: transformers
pipeline_tag: {loader.pipeline_tag}
tags: [merge]
---
# A merge of {count} models

Merged by {how}, in float32, cast once (`copd merge`).

Branches: {branches}. Base: {base}.{choice} Load with `{loader.auto_class.__name__}.from_pretrained(folder)`.

Configuration, tokenizer and processor are those of the first branch. The generation config's `suppress_tokens`, where
there are any, are the vocabulary mask that the branches were trained under: keep it when sampling.
"""


def evaluate_models(recipe: Recipe, paths: Sequence[str]) -> tuple[list[Accuracy], list[Difference]]:
    """Greedy accuracy and pass@k of models on the test problems of a recipe, and how much each differs from the first.

    One model is in memory at a time.

    `paths` are as `model_folder` takes them. Raises ModelFolderError for one that is not there before any is loaded.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path in paths:
        model_folder(path, "MODEL")
    tasks = make_tasks(recipe)
    settings, answers = recipe.evaluation, []
    with make_grader(recipe, logger.warning) as grader:
        for path in dict.fromkeys(paths):
            model = _actor(recipe, tasks, grader, path, _load(recipe, tasks, path))
            asked = answer([model], list(tasks), Split.TEST, problems=settings.problems, pass_at=settings.pass_at)
            answers += finish(asked)
            del model  # the next one takes its place in memory
    return tabulate(answers, settings.pass_at), differences(answers, paths[0])


def compare_behaviour(
    recipe: Recipe, student: str, teacher: str, problems: int | None = None
) -> list[CapabilityBehaviour]:
    """How a teacher's model sees a student's: measures and most disputed tokens in each field of a recipe.

    Both are given as `model_folder` takes them; the student answers `problems` validation problems of each capability
    (default as in the recipe), twice each. Raises ModelFolderError for one that is not there or for models whose tokens
    are not the same.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path, given_as in ((student, "STUDENT"), (teacher, "TEACHER")):
        model_folder(path, given_as)
    tasks = make_tasks(recipe)
    policies = [_load(recipe, tasks, path) for path in (student, teacher)]
    check_overlap(recipe, policies[0])
    check_same_vocabulary(policies[0], policies[1], (f"STUDENT {student}", f"TEACHER {teacher}"))
    settings = recipe.evaluation
    count = problems or settings.behaviour_problems
    with make_grader(recipe, logger.warning) as grader:
        learns, teaches = (
            _actor(recipe, tasks, grader, name, policy) for name, policy in zip(ROLES, policies, strict=True)
        )
        return [finish(observe(learns, teaches, task, problems=count, ks=settings.overlap_k)) for task in tasks]


def filter_rows(
    recipe: Recipe, branch: str, out: Path, *, file: str | None = None, model: str | None = None, samples: int = 0
) -> tuple[PassRates, int]:
    """Write the training rows of a branch that a model answers rightly sometimes, neither always nor never, to `out`.

    The rows of `file`, or of the branch's training files, are answered `samples` times (default as in training) by
    `model`, or the recipe's base, and graded as in training. Rows that are cut off for validation and test by hash are
    not asked but copied, so that `out` takes the place of the training files; returned are the pass rates and the
    number of these. Raises RecipeError, ModelFolderError or DataError, where the rows cannot be written to `out` before
    any is asked.
    """
    section = rows_section(recipe, branch)
    if file is not None:
        section = section.model_copy(update={"train": (file,)})
    if model is not None:
        model_folder(model, "--model")
    rows = make_rows(branch, section, recipe.seed, recipe.verifiers)
    check_copy(rows.sources(Split.TRAIN), rows.settings, out)
    torch.set_num_threads(recipe.model.threads_per_branch)
    with make_grader(recipe, logger.warning) as grader:
        policy = _load(recipe, {branch: rows}, model)
        actor = Actor("filter", -1, policy, {branch: rows}, make_sampling(recipe), grader)
        found = _pass_rates(
            actor, rows, recipe.sampling.prompts_per_step, samples or recipe.sampling.rollouts_per_prompt
        )
    if not found.kept:
        raise DataError("\n".join([f"--out {out}: not written, no row would be kept", *found.summary()]))
    kept = rows.with_cut_rows(found.kept)
    write_copy(kept, out)
    return found, sum(len(positions) for _, positions in kept) - len(found.kept)


def _pass_rates(actor: Actor, rows: Rows, at_once: int, samples: int) -> PassRates:
    """Ask all training rows in the order of their files, so many prompts at once."""
    found, quiet = PassRates(samples), not Console().is_terminal
    in_order = rows.in_file_order(Split.TRAIN)
    asked = iter(track(in_order, "rows", total=rows.size(Split.TRAIN), transient=True, disable=quiet))
    for number, chunk in enumerate(iter(lambda: list(islice(asked, at_once)), [])):
        generator = generator_of(actor.sampling.seed, actor.name, rows.name, number)
        answers = actor.answer([problem for _, problem in chunk], samples, generator)
        found.failures += answers.grader_failures
        for (place, _), right in zip(chunk, right_answers(answers).tolist(), strict=True):
            found.add(place, int(right), rows.where(Split.TRAIN, place))
    return found


def _load(recipe: Recipe, tasks: Mapping[str, Task], path: str | None, name: str | None = None) -> Policy:
    """The model at `path`, by default the recipe's base, called `name` in warnings."""
    policy = load_policy(recipe, path)
    for warning in check_problems(policy, tasks, recipe.sampling.max_new_tokens):
        logger.warning("%s: %s", name or path or recipe.model.path, warning)
    return policy


def _actor(recipe: Recipe, tasks: Mapping[str, Task], grader: Grader, name: str, policy: Policy) -> LocalActor:
    return LocalActor(Actor(name, -1, policy, tasks, make_sampling(recipe), grader))


def merge_models(
    branches: Sequence[str], base: str | None, candidates: Sequence[MergeSection], out: Path, recipe: Recipe | None
) -> tuple[MergeSection, list[Accuracy]]:
    """Merge models into `out`; of several candidates of one method by the one that validation problems favour.

    Branches and base are given as `model_folder` takes them. Returns that candidate and the accuracy of all of them
    (none without a recipe). Only one model is in memory, and without a recipe only one tensor of each; with one, the
    disk holds a candidate at a time beside `out`. What does not match raises RecipeError, ModelFolderError or
    MergeError before anything is written; after an error nothing is left.
    """
    if occupied(out):
        raise RecipeError(f"--out {out}: is not empty; give another folder")
    folders = [ModelFolder(model_folder(path, "--branch"), path) for path in branches]
    start = None if base is None else ModelFolder(model_folder(base, "--base"), base)
    merge = MergedFolders(folders, start, candidates[0].method, candidates[0].settings)
    merges = [merge.with_settings(section.settings) for section in candidates]
    table = [] if recipe is None else _scan(recipe, merges, [described_merge(each) for each in candidates], out)
    averages = [cell.greedy.value for cell in table if cell.capability == AVERAGE] or [0.0]
    best = averages.index(max(averages))
    chosen = candidates[best]
    choice = f" Chosen among {len(candidates)} on validation problems, average accuracy {max(averages):.1%}."
    card = MERGE_CARD.format(
        loader=folders[0].loader,
        count=len(folders),
        how=described_merge(chosen),
        branches=", ".join(f"`{path}`" for path in branches),
        base=f"`{base}`" if base else "not given",
        choice=choice if table else "",
    )
    write_merged(merges[best], out, card)
    return chosen, table


def described_merge(section: MergeSection) -> str:
    """A merge and its settings in words."""
    parts = {name: value for name, value in section.settings.items() if value is not None}
    shown = {n: " ".join(f"{x:.3g}" for x in v) if isinstance(v, tuple) else f"{v:.3g}" for n, v in parts.items()}
    return ", ".join([section.method, *(f"{name} {value}" for name, value in shown.items())])


def _scan(recipe: Recipe, merges: Sequence[MergedFolders], labels: Sequence[str], out: Path) -> list[Accuracy]:
    """Greedy accuracy of merges on the recipe's validation problems.

    Each is written to a folder beside `out`, loaded as any other model, and removed before the next is written.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    tasks = make_tasks(recipe)
    count, table = recipe.evaluation.validation_problems, []
    pairs, quiet = list(zip(labels, merges, strict=True)), not Console().is_terminal
    trial = out.resolve().with_name(f".{out.name}.trial")
    with make_grader(recipe, logger.warning) as grader:
        for label, merged in track(pairs, f"{len(pairs)} merges", transient=True, disable=quiet):
            shutil.rmtree(trial, ignore_errors=True)
            try:
                write_merged(merged, trial, "")
                model = _actor(recipe, tasks, grader, label, _load(recipe, tasks, str(trial), label))
                table += finish(evaluate([model], list(tasks), Split.VALIDATION, problems=count, pass_at=()))
                del model  # the next one takes its place in memory
            finally:
                shutil.rmtree(trial, ignore_errors=True)
    return table


def build_base(folder: Path, *, conflict: float, steps: int | None = None) -> None:
    """Initialise a tiny Qwen3-VL, warm it up on all three capabilities and all conventions, and save it with sums.

    Raises RecipeError where `folder` is not empty.
    """
    if occupied(folder):
        raise RecipeError(f"{folder}: is not empty; give another folder")
    processor = tiny_processor()
    policy = Policy(tiny_model(processor), processor)
    plan = WarmupPlan() if steps is None else WarmupPlan(steps=steps)
    tasks = [Digits(c, seed=plan.seed, conflict=conflict, conventions=UNDECIDED) for c in CAPABILITIES]
    warm_up(policy, tasks, plan, Screen().warmed)
    save_policy(policy, folder, BASE_CARD.format(conflict=conflict, plan=plan))
    write_checksums(folder)
