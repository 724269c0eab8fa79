"""`copd eval`: compare models on the test problems of a recipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from copd.assemble.assembled import assembled
from copd.branches.local import finish, local_handle
from copd.commands.export import folders_of
from copd.measure.compare import Difference, differences
from copd.measure.evaluate import Accuracy, answer, tabulate
from copd.model.folders import model_folder, stored_type
from copd.recipe.model import Recipe
from copd.types import Split

logger = logging.getLogger(__name__)


def evaluate_models(
    recipe: Recipe, paths: Sequence[str], tell: Callable[[str], None] = lambda what: None
) -> tuple[list[Accuracy], list[Difference]]:
    """Greedy accuracy and pass@k of models on a recipe's test problems, and the difference of each to the first.

    One model is in memory at a time. `paths` are in a form that `folders_of` takes. `tell` is told what is being done.
    Raises ModelFolderError for a model
    that does not exist, before any is loaded.
    """
    answers = []
    with folders_of(dict.fromkeys(paths, "MODEL"), tell) as folders, assembled(recipe, logger.warning) as made:
        settings = made.evaluation
        for path, folder in folders.items():
            if (stored := stored_type(model_folder(folder))) not in ("", "float32"):
                logger.warning("%s: its weights are stored in %s, and evaluated as that has rounded them", path, stored)
            tell(f"{path}: loading")
            model = local_handle(made.actor(path, made.model(folder, path)))
            for task in made.tasks:
                tell(f"{path}: answering {settings.problems} problems of {task}")
                asked = answer([model], [task], Split.TEST, problems=settings.problems, pass_at=settings.pass_at)
                answers += finish(asked)
            del model  # the next one takes its place in memory
    return tabulate(answers, settings.pass_at), differences(answers, paths[0])


def as_record(table: Sequence[Accuracy], compared: Sequence[Difference]) -> dict[str, Any]:
    """What `evaluate_models` found, as JSON can hold it. Shares and differences are between 0 and 1, not per cent."""
    return {"accuracies": [cell.as_record() for cell in table], "differences": [asdict(each) for each in compared]}
