"""Arguments that several commands take."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from copd.errors import RecipeError
from copd.system.files import replace_text


def changes_that_begin(context: typer.Context, incomplete: str) -> list[str]:
    """What a shell offers for a change: each field of the recipe before it, or of the demo, with the value it has.

    A value that a shell would have to quote is left out.
    """
    from copd.recipe.reading import described, load_recipe

    try:
        settings = load_recipe(context.params.get("recipe") or "demo")
    except RecipeError:
        settings = load_recipe("demo")
    return [
        f"{path}={value if UNQUOTED.fullmatch(value) else ''}"
        for path, value, _ in described(settings)
        if path.startswith(incomplete)
    ]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="section.key=value ...", help="Fields to change.", autocompletion=changes_that_begin),
]


def recipes_that_begin(incomplete: str) -> list[str]:
    """What a shell offers for a recipe: those that ship, and YAML files."""
    from copd.recipe.reading import builtin_recipes

    files = sorted(file for file in glob.glob(f"{glob.escape(incomplete)}*") if file.endswith((".yaml", ".yml")))
    return [*(name for name in builtin_recipes() if name.startswith(incomplete)), *files]


RecipeName = Annotated[
    str | None, typer.Argument(help="A YAML file, or a builtin recipe by name.", autocompletion=recipes_that_begin)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead.")]
ResultFile = Annotated[Path | None, typer.Option("--out", help="Also write the result to this file, as JSON.")]
CHANGE = re.compile(r"[\w.-]+=")
"""How a change of a recipe begins."""
UNQUOTED = re.compile(r"[\w.:/@+-]*")
"""What no shell takes apart."""


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """On a terminal, a line that says what the block does while it lasts. What is yielded takes another line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status(f"{escape(what)} ...") as status:
        yield lambda line: status.update(f"{escape(line)} ...")


def say(line: str) -> None:
    """Tell the user something beside the result, on stderr."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def check_result_file(out: Path | None) -> None:
    """Raises RecipeError if the file could not be written once the result is there."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        found = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise RecipeError(f"--out {out}: {found}; give a file in a folder that is there")


def give(shown: Sequence[RenderableType], record: Mapping[str, Any], as_json: bool, out: Path | None) -> None:
    """Give the user a result: as tables or as JSON, and in a file if one is named.

    Raises WriteError if the file cannot be written, after the result was printed.
    """
    from copd.runs.runlog import finite

    text = json.dumps(finite(record), indent=1, allow_nan=False) + "\n"
    if as_json:
        print(text, end="")
    else:
        Console().print(*shown, sep="\n", crop=False)
    if out is not None:
        replace_text(out, text)


def named_recipe(recipe: str | None, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Recipe and overrides. Raises RecipeError if no recipe is named."""
    named, changes = recipe_and_changes(recipe, overrides)
    if named is None:
        raise RecipeError("RECIPE: missing; accepted: a YAML file, or a recipe that ships with copd, such as demo")
    return named, changes


def recipe_and_changes(recipe: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Recipe, or file, and overrides. It is None if the first argument is an override such as schedule.cycles=2."""
    words = [word for word in (recipe, *(overrides or [])) if word is not None]
    return (None, words) if not words or is_change(words[0]) else (words[0], words[1:])


def models_and_changes(
    words: Sequence[str], changes_recipe: Callable[[str], bool] | None = None
) -> tuple[list[str], list[str]]:
    """The models, and the changes of a recipe, among words in any order. Raises RecipeError if no model is named.

    `changes_recipe` says which word is a change, by default `is_change`.
    """
    changes = [word for word in words if (changes_recipe or is_change)(word)]
    models = [word for word in words if word not in changes]
    if not models:
        raise RecipeError("MODEL: missing; accepted: a folder, builtin:NAME, RUN@STEP, or ID@REVISION of Hugging Face")
    return models, changes


def is_change(word: str) -> bool:
    """Whether a word is a change of a recipe, not a file that is there."""
    return bool(CHANGE.match(word)) and not os.path.exists(word)  # unlike that of a Path, it takes any length
