"""Arguments that several commands take."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Changes = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="section.key=value ...", help="Fields to change.")]
RecipeName = Annotated[str, typer.Argument(help="A YAML file, or a builtin recipe by name.")]


def busy(what: str) -> AbstractContextManager[object]:
    """On a terminal, a line that says what the block does while it lasts."""
    console = Console()
    return console.status(f"{what} ...") if console.is_terminal else nullcontext()


def recipe_and_changes(recipe: str | None, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Recipe and overrides. If the first argument is an override such as schedule.cycles=2, it changes the demo."""
    changes = overrides or []
    if recipe is None:
        return "demo", changes
    return ("demo", [recipe, *changes]) if is_change(recipe) else (recipe, changes)


def is_change(word: str) -> bool:
    """Whether a word is an override, not a file that is there."""
    return "=" in word and not Path(word).exists()
