"""Raters of rows: in this process, in processes of their own, or actors of Ray, as the recipe wants its branches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from copd.assemble.assembled import Assembled, Inheritance, assembled
from copd.assemble.branches import home_of
from copd.assemble.places import as_actors, cluster_module, in_processes, patience_of
from copd.branches.handle import Handle
from copd.branches.local import local_handle
from copd.branches.processes import Make
from copd.branches.rater import RATER, Rater
from copd.errors import RecipeError
from copd.model.policy import Policy
from copd.recipe.model import Recipe
from copd.recipe.sections import EvaluationSection
from copd.recipe.task_sections import RowsTask
from copd.rows.rows import Rows
from copd.types import Split


def recipe_of_rows(recipe: Recipe, branch: str, section: RowsTask, model: str | None) -> Recipe:
    """The recipe with this branch alone, on these rows, and with another model in the place of the base."""
    rows = recipe.branches[branch].model_copy(update={"task": section})
    changes = {"branches": {branch: rows}, "evaluation": EvaluationSection()}
    if model is not None:
        changes |= {"model": recipe.model.model_copy(update={"path": model, "revision": None})}
    return recipe.model_copy(update=changes)


@contextmanager
def raters(made: Assembled, workers: int | None) -> Iterator[list[Handle]]:
    """Handles on raters of the only branch of a recipe; by default one for each card.

    Raises RecipeError for several in this process, and what building them raises.
    """
    kind, policy = made.recipe.backend.kind, made.model(None)
    if kind == "local":
        yield [local_handle(_rater(made, RATER, policy))]
        return
    inherited = made.inheritance_of(policy)
    del policy  # each rater has its own
    torch.cuda.empty_cache()
    with ExitStack() as life:
        started = _in_processes if kind == "processes" else _on_ray
        yield started(made, inherited, workers, life)


def check_workers(recipe: Recipe, workers: int | None) -> None:
    """Raise RecipeError for several raters in one process."""
    if workers is not None and workers > 1 and recipe.backend.kind == "local":
        raise RecipeError(f"--workers {workers}: backend is local, which has one; add backend=processes or backend=ray")


def _in_processes(made: Assembled, inherited: Inheritance, workers: int | None, life: ExitStack) -> list[Handle]:
    count = workers or max(1, torch.cuda.device_count() if made.recipe.model.device in ("auto", "cuda") else 1)
    processes = in_processes(made, _makes(made, inherited, count), life)
    return [process.handle(patience_of(made)) for process in processes]


def _on_ray(made: Assembled, inherited: Inheritance, workers: int | None, life: ExitStack) -> list[Handle]:
    cluster, cores = cluster_module(), made.recipe.model.threads_per_branch
    life.enter_context(cluster.cluster(cores * (workers or 1)))
    cards = cluster.cards_for(made.recipe.model.device)
    makes = _makes(made, inherited, workers or cluster.room_for(cores, cards))
    actors = as_actors(made, makes, dict.fromkeys(makes, cards), 1, life)
    return [actor.handle(patience_of(made)) for actor in actors]


def _makes(made: Assembled, inherited: Inheritance, count: int) -> Mapping[str, Make]:
    return {f"worker {i + 1}": partial(lone_rater, made.recipe, f"worker {i + 1}", i, inherited) for i in range(count)}


@contextmanager
def lone_rater(
    recipe: Recipe, name: str, index: int, inherited: Inheritance, warn: Callable[[str], None]
) -> Iterator[Rater]:
    """The only rater of a process, with its own model, rows and grader."""
    with assembled(recipe, warn, inherited=inherited, home=home_of(recipe, name, index)) as made:
        yield _rater(made, name, made.model(None))


def _rater(made: Assembled, name: str, policy: Policy) -> Rater:
    ((branch, rows),) = made.tasks.items()
    assert isinstance(rows, Rows)
    policy.sampler = made.sampler
    parts = (name, policy, made.tasks, made.sampling, made.grader, made.asked)
    return Rater(*parts, capability=branch, in_file_order=partial(rows.in_file_order, Split.TRAIN))
