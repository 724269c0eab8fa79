"""Arguments that several commands take."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from copd.errors import RecipeError

Changes = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="section.key=value ...", help="Fields to change.")]
RecipeName = Annotated[str | None, typer.Argument(help="A YAML file, or a builtin recipe by name.")]


def busy(what: str) -> AbstractContextManager[object]:
    """On a terminal, a line that says what the block does while it lasts."""
    console = Console()
    return console.status(f"{what} ...") if console.is_terminal else nullcontext()


def say(line: str) -> None:
    """Tell the user something beside the result, on stderr."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def named_recipe(recipe: str | None, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Recipe and overrides. Raises RecipeError if no recipe is named."""
    named, changes = recipe_and_changes(recipe, overrides)
    if named is None:
        raise RecipeError("RECIPE: missing; accepted: a YAML file, or a recipe that ships with copd, such as demo")
    return named, changes


def recipe_and_changes(recipe: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Recipe and overrides. The recipe is None if the first argument is an override such as schedule.cycles=2."""
    words = [word for word in (recipe, *(overrides or [])) if word is not None]
    return (None, words) if not words or is_change(words[0]) else (words[0], words[1:])


def is_change(word: str) -> bool:
    """Whether a word is an override, not a file that is there."""
    return "=" in word and not Path(word).exists()
