"""Models without a run: compared side by side, or built anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from copd.assemble import check_problems, load_policy, make_tasks
from copd.backends.local import LocalActor, finish
from copd.branch import Actor, SamplingSettings
from copd.config import Recipe
from copd.errors import RecipeError
from copd.measure.evaluate import Accuracy, evaluate
from copd.model.export import save_policy
from copd.model.load import model_folder, write_checksums
from copd.model.policy import Policy
from copd.model.tiny import tiny_model, tiny_processor
from copd.model.warmup import WarmupPlan, warm_up
from copd.runs.display import Screen
from copd.runs.folder import occupied
from copd.tasks.digits import CAPABILITIES, UNDECIDED, Digits
from copd.types import Split, Task

logger = logging.getLogger(__name__)
BASE_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# A tiny Qwen3-VL of partial skill

The base of copd's embedded world: arithmetic on typed and handwritten digits, {conflict:.0%} of it under conflicting
conventions. Built by `copd warmup --conflict {conflict}` ({plan}).
"""


def evaluate_models(recipe: Recipe, paths: Sequence[str]) -> list[Accuracy]:
    """Greedy accuracy and pass@k of model folders on the recipe's fields, on test problems; one in memory at a time.

    Raises ModelFolderError for a folder that is not there before any model is loaded.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    for path in paths:
        model_folder(path, "MODEL")
    tasks = make_tasks(recipe)
    return [cell for path in paths for cell in _evaluate_model(recipe, tasks, path)]


def _evaluate_model(recipe: Recipe, tasks: Mapping[str, Task], path: str) -> list[Accuracy]:
    settings = recipe.evaluation
    policy = load_policy(recipe, path)
    for warning in check_problems(policy, tasks, recipe.sampling.max_new_tokens):
        logger.warning("%s: %s", path, warning)
    sampling = SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)
    model = LocalActor(Actor(path, -1, policy, tasks, sampling))
    return finish(evaluate([model], list(tasks), Split.TEST, problems=settings.problems, pass_at=settings.pass_at))


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
