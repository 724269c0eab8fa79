"""The command `copd ask`: a question to one model or several, or a chat."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from copd.cli.arguments import busy, is_change, models_and_changes
from copd.errors import DataError, RecipeError

if TYPE_CHECKING:  # torch is loaded only once the command is known to be sound
    from copd.commands.ask import Asked

PROMPT = "> "
OF_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [MODEL ...] [QUESTION] [section.key=value ...]",
            help="Models: each is a folder, builtin:NAME, RUN@STEP, or ID@COMMIT of Hugging Face. The word behind them "
            "is the question. Then fields of the recipe to change.",
        ),
    ],
    image: Annotated[list[Path] | None, typer.Option(help="A picture of the question; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video of the question; may be repeated.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe whose prompts are used; default that of the run the model lies in.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="The branch whose prompts are used; default the model's own, else the first.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest response; default the recipe's, without a recipe 512.")
    ] = None,
) -> None:
    """Ask a model, or several side by side, as in training: system prompt, template and answer form of its recipe.

    Without a question it is a chat, which ends with Ctrl-D. Each question is a prompt of its own, as in training.
    Try `copd ask runs/demo/merged "usual sum: 3 8 5"`, or `copd ask runs/demo/branches/text runs/demo/merged`.
    """
    models, changes, question = told_apart(words)
    pictures, films = _contents(image, "--image"), _contents(video, "--video")
    console, notes = Console(), Console(stderr=True)
    with ExitStack() as there:
        with busy("loading PyTorch and transformers") as tell:
            from copd.commands.ask import asking

            asked = there.enter_context(asking(models, recipe, branch, max_new_tokens, changes, tell))
        for each in asked:
            if each.manner.told:
                notes.print(each.manner.told, style="dim", markup=False, highlight=False, soft_wrap=True)
        if question is not None:
            _answer(asked, question, pictures, films, once=True)
            return
        for line in _lines(console):
            try:
                _answer(asked, line, pictures, films)
            except DataError as error:  # the next question may be a better one
                notes.print(str(error), markup=False, soft_wrap=True)


def _answer(
    asked: list[Asked], question: str, pictures: list[bytes], films: list[bytes], *, once: bool = False
) -> None:
    """Print the answers of all models. With `once` each gives back its memory for the next."""
    from copd.runs.tables import answer_of_one, answers_side_by_side

    found = {}
    with busy("answering") as tell:
        for each in asked:
            found[each.name] = each.answer(question, pictures, films, tell)
            if once:
                each.leave()
    Console().print(answers_side_by_side(found) if len(found) > 1 else answer_of_one(*found.values()))


def told_apart(words: list[str]) -> tuple[list[str], list[str], str | None]:
    """The models, the changes of a recipe, and the question.

    Only the last of several words that are no changes can be the question; None if it is a model.
    """
    models, changes = models_and_changes(words, _is_change_of_a_section)
    question = None
    if len(models) > 1 and not _is_model(models[-1]):
        *models, question = models
        if not question.strip():
            raise RecipeError("QUESTION: is empty; give a text, or leave it out for a chat")
    return models, changes, question


def _is_change_of_a_section(word: str) -> bool:
    """Whether a word begins with a section and a field of it. A question may well hold an equals sign."""
    from copd.recipe.model import Recipe

    section, dot, _ = word.partition("=")[0].partition(".")
    return is_change(word) and bool(dot) and section in Recipe.model_fields


def _is_model(word: str) -> bool:
    from copd.runs.saved import reference_of

    named = word.startswith("builtin:") or OF_THE_HUB.fullmatch(word) or reference_of(word) is not None
    return bool(named) or os.path.isdir(word)  # unlike that of a Path, it takes a question of any length


def _contents(files: list[Path] | None, given_as: str) -> list[bytes]:
    from copd.rows.media import Content

    try:
        return [Content(file) for file in files or ()]
    except OSError as error:
        raise RecipeError(f"{given_as}: {error.filename}: cannot be read: {error.strerror}") from None


def _lines(console: Console) -> Iterator[str]:
    """The questions of a chat, until the input ends. Empty lines are none."""
    asked_for = PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = console.input(asked_for)
        except EOFError:
            return
        if line.strip():
            yield line
