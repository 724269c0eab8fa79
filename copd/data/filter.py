"""`copd data filter`: the training rows that a model can learn from."""

from __future__ import annotations

import logging
from asyncio import gather
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from copd.assemble.assembled import Assembled, assembled
from copd.assemble.raters import check_workers, raters, recipe_of_rows
from copd.assemble.rows import rows_section
from copd.branches.handle import Handle
from copd.branches.local import finish
from copd.data.answered import Answered, settings_of_answers
from copd.errors import BadRow, DataError
from copd.measure.passrates import PassRates
from copd.model.folders import model_folder
from copd.recipe.model import Recipe
from copd.rows.copies import check_copy, write_copy
from copd.rows.rows import Rows
from copd.types import Rated, Split

logger = logging.getLogger(__name__)
PROGRESS = ".progress.jsonl"
"""What the name of the file of answered chunks adds to that of the result."""


def filter_rows(
    recipe: Recipe,
    branch: str,
    out: Path,
    *,
    file: str | None = None,
    model: str | None = None,
    samples: int | None = None,
    workers: int | None = None,
    at_most: int | None = None,
) -> tuple[PassRates, int]:
    """Write the training rows of a branch that a model answers rightly sometimes, neither always nor never, to `out`.

    `model`, by default the recipe's base, answers each row of `file`, by default of the branch's training files,
    `samples` times (default as in training). Its responses are graded as in training. `workers` copies of the model
    answer, where the recipe's backend has branches. `at_most` so many of the rows are kept. Rows that are cut off for
    validation and test are copied without being asked, so that `out` can replace the training files. Returns the pass
    rates and the number of copied rows.

    Answers are kept in a file beside `out` until `out` is written; the same call goes on from them. Raises RecipeError,
    ModelFolderError, ProcessError, CheckpointError or DataError; if rows cannot be written to `out`, before any is
    asked.
    """
    section = rows_section(recipe, branch)
    if file is not None:
        section = section.model_copy(update={"train": (file,)})
    if model is not None:
        model_folder(model, "--model")
    check_workers(recipe, workers)
    with assembled(recipe_of_rows(recipe, branch, section, model), logger.warning) as made:
        rows = made.tasks[branch]
        assert isinstance(rows, Rows)
        check_copy(rows.sources(Split.TRAIN), rows.settings, out)
        samples = samples or recipe.sampling.rollouts_per_prompt
        path, settings = out.with_name(out.name + PROGRESS), settings_of_answers(made, samples)
        with closing(Answered(path, settings)) as answered:
            _answer(made, rows, samples, workers, answered)
            found = _pass_rates(rows, samples, answered)
            found.keep_at_most(at_most, recipe.seed)
            kept = rows.with_cut_rows(found.kept)
            if found.kept:
                write_copy(kept, out)
            answered.remove()
    if not found.kept:
        raise DataError("\n".join([f"--out {out}: not written, no row would be kept", *found.summary()]))
    return found, sum(len(positions) for _, positions in kept) - len(found.kept)


def _answer(made: Assembled, rows: Rows, samples: int, workers: int | None, answered: Answered) -> None:
    """Have all chunks of training rows answered that are not yet. An interruption is told where it can go on."""
    size, at_once = rows.size(Split.TRAIN), made.recipe.sampling.prompts_per_step
    chunks = {number: range(size)[first : first + at_once] for number, first in enumerate(range(0, size, at_once))}
    for rated in answered.chunks.values():
        _meet_bad_rows(rows, rated)
    left = {number: places for number, places in chunks.items() if number not in answered.chunks}
    try:
        with Progress(transient=True, disable=not left or not Console().is_terminal) as shown:
            bar = shown.add_task("rows", total=size, completed=size - sum(map(len, left.values())))

            def keep(number: int, rated: Rated) -> None:
                _meet_bad_rows(rows, rated)
                answered.add(number, rated)
                shown.advance(bar, len(left[number]))

            if left:
                with raters(made, workers) as handles:
                    finish(_ask(handles, iter(left.items()), samples, keep))
    except BaseException:
        if answered.chunks:
            done = f"{len(answered.chunks)} of {len(chunks)} chunks of rows are answered"
            logger.warning("%s: %s; the same command goes on from there", answered.path, done)
        else:
            answered.remove()
        raise


async def _ask(
    handles: Sequence[Handle], chunks: Iterator[tuple[int, range]], samples: int, keep: Callable[[int, Rated], None]
) -> None:
    """Each rater gets the next chunk as soon as it has answered one."""

    async def ask(rater: Handle) -> None:
        for number, places in chunks:
            keep(number, await rater.rate(number, places, samples))

    await gather(*map(ask, handles))


def _meet_bad_rows(rows: Rows, rated: Rated) -> None:
    for place, why in rated.bad.items():
        rows.meet(Split.TRAIN, place, BadRow(why))


def _pass_rates(rows: Rows, samples: int, answered: Answered) -> PassRates:
    found = PassRates(samples)
    for _, rated in sorted(answered.chunks.items()):
        found.failures += rated.failures
        for place, right in rated.right.items():
            found.add(place, right, rows.where(Split.TRAIN, place))
    return found
