"""`copd data filter`: the training rows that a model can learn from."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import track

from copd.assemble.assembled import assembled
from copd.assemble.rows import make_rows, rows_section
from copd.branches.actor import Actor, generator_of
from copd.errors import DataError
from copd.measure.evaluate import right_answers
from copd.measure.passrates import PassRates
from copd.model.folders import model_folder
from copd.recipe.model import Recipe
from copd.rows.copies import check_copy, write_copy
from copd.rows.rows import Rows
from copd.types import Split

logger = logging.getLogger(__name__)


def filter_rows(
    recipe: Recipe,
    branch: str,
    out: Path,
    *,
    file: str | None = None,
    model: str | None = None,
    samples: int | None = None,
) -> tuple[PassRates, int]:
    """Write the training rows of a branch that a model answers rightly sometimes, neither always nor never, to `out`.

    `model`, by default the recipe's base, answers each row of `file`, by default of the branch's training files,
    `samples` times (default as in training). Its responses are graded as in training. Rows that are cut off for
    validation and test are copied without being asked, so that `out` can replace the training files. Returns the pass
    rates and the number of copied rows. Raises RecipeError, ModelFolderError or DataError; if rows cannot be written to
    `out`, before any is asked.
    """
    section = rows_section(recipe, branch)
    if file is not None:
        section = section.model_copy(update={"train": (file,)})
    if model is not None:
        model_folder(model, "--model")
    rows = make_rows(branch, section, recipe.seed, recipe.verifiers, answer_form=recipe.reward.answer_form)
    check_copy(rows.sources(Split.TRAIN), rows.settings, out)
    with assembled(recipe, logger.warning, tasks={branch: rows}) as made:
        actor = made.actor("filter", made.model(model))
        found = _pass_rates(
            actor, rows, recipe.sampling.prompts_per_step, samples or recipe.sampling.rollouts_per_prompt
        )
    if not found.kept:
        raise DataError("\n".join([f"--out {out}: not written, no row would be kept", *found.summary()]))
    kept = rows.with_cut_rows(found.kept)
    write_copy(kept, out)
    return found, sum(len(positions) for _, positions in kept) - len(found.kept)


def _pass_rates(actor: Actor, rows: Rows, at_once: int, samples: int) -> PassRates:
    """Ask all training rows in the order of their files, `at_once` prompts at a time."""
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
