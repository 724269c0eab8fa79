"""A recipe's tasks, and warnings about their data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations

import numpy as np

from copd.assemble.rows import make_rows, ungradable
from copd.errors import RecipeError
from copd.recipe.evaluation import Evaluation, sized
from copd.recipe.model import Recipe
from copd.recipe.sampling_section import SamplingSection
from copd.recipe.sections import OptimizerSection
from copd.rewards.grading import OURS
from copd.rows.rows import Index, NoRowLeft, Rows
from copd.system.own_code import OwnCode, load_named, loaded
from copd.tasks.digits import Digits
from copd.tasks.own import check_own, own_task
from copd.types import Split, Task

WARMED_UP_AT = {"builtin:digits": 1.0}
"""The share of conflict that a base was warmed up at."""
SIZES = {"problems": Split.TEST, "validation_problems": Split.VALIDATION, "behaviour_problems": Split.VALIDATION}
"""The sizes of evaluation, and the split that each asks."""


def make_tasks(
    recipe: Recipe, indexes: Mapping[str, Index] | None = None, code: Mapping[str, OwnCode] | None = None
) -> dict[str, Task]:
    """The task of every branch, by the branch's name. If a branch is in `indexes`, its rows are not read again.

    `code`: the user's code by field, as the run found it; None: it is found and checked now.

    Raises DataError for rows or a user's problems that cannot be used, RecipeError, with every shortage, if more
    problems are asked for than there are, or for code that cannot be used.
    """
    tasks: dict[str, Task] = {}
    short: list[str] = []
    for name, branch in recipe.branches.items():
        section = branch.task
        if section.kind == "rows":
            index = (indexes or {}).get(name)
            try:
                tasks[name] = make_rows(name, section, recipe.seed, recipe.verifiers, index, recipe.reward.answer_form)
            except NoRowLeft as error:
                short.append(str(error))
        elif section.kind == "python":
            field = f"branches.{name}.task.source"
            own = loaded(code[field], field) if code else load_named(section.source, field)
            tasks[name] = made = own_task(name, section.source, own, section.arguments, recipe.seed)
            if indexes is None:
                check_own(made, OURS | set(recipe.verifiers), partial(ungradable, recipe.reward.answer_form))
        else:
            tasks[name] = Digits(**section.model_dump(exclude={"kind"}), seed=recipe.seed)
    asked = evaluation_of(recipe, tasks)
    for name, task in tasks.items():
        short += _short_of_rows(asked, name, task) if isinstance(task, Rows) else _short_of(asked, name, task)
    if short:
        raise RecipeError("\n".join(short))
    for task in tasks.values():
        if isinstance(task, Rows):
            task.ask(_asked(asked))
    return tasks


def evaluation_of(recipe: Recipe, tasks: Mapping[str, Task]) -> Evaluation:
    """The recipe's section of evaluation with all sizes. One that it leaves out is at most what each task has."""
    return sized(recipe.evaluation, problems_there(tasks))


def problems_there(tasks: Mapping[str, Task]) -> dict[str, int | None]:
    """By size of evaluation, the number of problems that each task has; None if no task is on rows."""
    sizes = [task.size for task in tasks.values() if isinstance(task, Rows)]
    return {field: min((size(split) for size in sizes), default=None) for field, split in SIZES.items()}


def _asked(asked: Evaluation) -> dict[Split, int]:
    """How many problems of a task are asked in validation and test."""
    return {Split.VALIDATION: max(asked.validation_problems, asked.behaviour_problems), Split.TEST: asked.problems}


def _short_of(asked: Evaluation, name: str, task: Task) -> Iterator[str]:
    """Each split of a task that makes fewer different problems than will be asked."""
    for split, count in {Split.TRAIN: 1, **_asked(asked)}.items():
        try:
            task.problem(split, count - 1)
        except RecipeError as error:
            yield f"branches.{name}.task: {count} {split.value} problems are asked for: {error}"


def _short_of_rows(asked: Evaluation, name: str, rows: Rows) -> Iterator[str]:
    """Each size that asks for more rows than there are. A row that counts twice makes an interval too narrow."""
    for field, split in SIZES.items():
        if getattr(asked, field) > rows.size(split):
            yield (
                f"evaluation.{field}: is {getattr(asked, field)}, but branches.{name}.task has {rows.size(split)} "
                f"{split.value} rows; ask for at most that many, leave it out, or give more"
            )


def data_warnings(tasks: Mapping[str, Task]) -> list[str]:
    """Warnings, with counts, of what tasks do not read of rows, or read in another way, and of bad rows left out."""
    found = []
    for name, task in tasks.items():
        if isinstance(task, Rows):
            found += [f"branches.{name}.task: {count} rows: {note}" for note, count in sorted(task.notes.items())]
            if task.skipped:
                found.append(f"branches.{name}.task: bad rows left out: {task.skipped}; `copd data check` lists them")
    return found


def leak_warnings(tasks: Mapping[str, Task]) -> list[str]:
    """A warning for rows that stand in two splits of a branch, and for rows that stand in two branches, with counts.

    Rows are the same if their text is, or the list of their images and videos if they have some.
    """
    rows = {name: task for name, task in tasks.items() if isinstance(task, Rows)}
    found = []
    for name, task in rows.items():
        for earlier, later in combinations(Split, 2):
            if count := int(np.isin(task.keys(later), task.keys(earlier)).sum()):
                found.append(
                    f"branches.{name}.task: {count} of {task.size(later)} {later.value} rows have the text, or the "
                    f"images and videos, of a {earlier.value} row"
                )
    keys = {name: np.concatenate([task.keys(split) for split in Split]) for name, task in rows.items()}
    for (one, ours), (other, theirs) in combinations(keys.items(), 2):
        if count := int(np.isin(ours, theirs).sum()):
            found.append(
                f"branches.{one}.task: {count} of {len(ours)} rows have the text, or the images and videos, of a row "
                f"of branches.{other}.task"
            )
    return found


def toy_warnings(recipe: Recipe) -> list[str]:
    """A warning for each default that is made for builtin:digits, where rows are asked of another model."""
    path = recipe.model.path
    if path in WARMED_UP_AT or not any(branch.task.kind == "rows" for branch in recipe.branches.values()):
        return []
    tokens, rate = recipe.sampling.max_new_tokens, recipe.optimizer.learning_rate
    found = []
    if tokens == SamplingSection().max_new_tokens:
        found.append(
            f"sampling.max_new_tokens: is {tokens}, the default for builtin:digits; longer responses of {path} are "
            "truncated and earn 0; set what answers need, for instance 4096"
        )
    if rate == OptimizerSection().learning_rate and recipe.lora is None:
        found.append(
            f"optimizer.learning_rate: is {rate:g}, the default for builtin:digits; on all weights of {path} the paper "
            "takes 1e-6"
        )
    return found


def conflict_warnings(recipe: Recipe) -> list[str]:
    """A warning for every capability whose share of conflict differs from the share that the base was warmed up at."""
    seen = WARMED_UP_AT.get(recipe.model.path)
    shares = {name: branch.task.conflict for name, branch in recipe.branches.items() if branch.task.kind == "digits"}
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in shares.items()
        if seen is not None and share != seen
    ]
