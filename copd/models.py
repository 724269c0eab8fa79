"""Models without a run: compared side by side, or built anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from copd.assemble import check_overlap, check_problems, load_policy, make_tasks
from copd.backends.local import LocalActor, finish
from copd.branch import Actor, SamplingSettings
from copd.config import Recipe
from copd.errors import ModelFolderError, RecipeError
from copd.measure.compare import Difference, differences
from copd.measure.disputes import FieldBehaviour, observe
from copd.measure.evaluate import Accuracy, answer, tabulate
from copd.model.export import save_policy
from copd.model.load import model_folder, write_checksums
from copd.model.policy import Policy
from copd.model.tiny import tiny_model, tiny_processor
from copd.model.vocabulary import same_tokens
from copd.model.warmup import WarmupPlan, warm_up
from copd.runs.display import Screen
from copd.runs.folder import occupied
from copd.tasks.digits import CAPABILITIES, UNDECIDED, Digits
from copd.types import Split

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


def evaluate_models(recipe: Recipe, paths: Sequence[str]) -> tuple[list[Accuracy], list[Difference]]:
    """Greedy accuracy and pass@k of model folders on the recipe's fields, on test problems, and how much each differs
    from the first; one model in memory at a time.

    Raises ModelFolderError for a folder that is not there before any model is loaded.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path in paths:
        model_folder(path, "MODEL")
    settings, answers = recipe.evaluation, []
    for path in dict.fromkeys(paths):
        model, tasks = _actor(recipe, path, _load(recipe, path)), list(recipe.branches)
        answers += finish(answer([model], tasks, Split.TEST, problems=settings.problems, pass_at=settings.pass_at))
    return tabulate(answers, settings.pass_at), differences(answers, paths[0])


def compare_behaviour(recipe: Recipe, student: str, teacher: str, problems: int | None = None) -> list[FieldBehaviour]:
    """How a teacher's model sees a student's: measures and most disputed tokens in each field of a recipe.

    Both are model folders; the student answers `problems` validation problems of each field (default as in the recipe),
    twice each. Raises ModelFolderError for a folder that is not there or for models whose tokens are not the same.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path, given_as in ((student, "STUDENT"), (teacher, "TEACHER")):
        model_folder(path, given_as)
    policies = [_load(recipe, path) for path in (student, teacher)]
    check_overlap(recipe, policies[0])
    if not same_tokens(*policies):
        raise ModelFolderError(f"TEACHER: {teacher} has other tokens than {student}; both must share one vocabulary")
    learns, teaches = (_actor(recipe, name, policy) for name, policy in zip(ROLES, policies, strict=True))
    settings = recipe.evaluation
    return [
        finish(observe(learns, teaches, task, problems=problems or settings.behaviour_problems, ks=settings.overlap_k))
        for task in recipe.branches
    ]


def _load(recipe: Recipe, path: str) -> Policy:
    policy = load_policy(recipe, path)
    for warning in check_problems(policy, make_tasks(recipe), recipe.sampling.max_new_tokens):
        logger.warning("%s: %s", path, warning)
    return policy


def _actor(recipe: Recipe, name: str, policy: Policy) -> LocalActor:
    sampling = SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)
    return LocalActor(Actor(name, -1, policy, make_tasks(recipe), sampling))


def build_base(folder: Path, *, conflict: float, steps: int | None = None, screen: Screen | None = None) -> None:
    """Initialise a tiny Qwen3-VL, warm it up on all three capabilities and all conventions, and save it with sums.

    Raises RecipeError where `folder` is not empty.
    """
    if occupied(folder):
        raise RecipeError(f"{folder}: is not empty; give another folder")
    processor = tiny_processor()
    policy = Policy(tiny_model(processor), processor)
    plan = WarmupPlan() if steps is None else WarmupPlan(steps=steps)
    tasks = [Digits(c, seed=plan.seed, conflict=conflict, conventions=UNDECIDED) for c in CAPABILITIES]
    warm_up(policy, tasks, plan, (screen or Screen()).warmed)
    save_policy(policy, folder, BASE_CARD.format(conflict=conflict, plan=plan))
    write_checksums(folder)
