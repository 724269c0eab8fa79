"""The command `copd example`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def example(
    name: Annotated[str, typer.Argument(help="The example, such as own_data.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for it.")],
) -> None:
    """Copy an example that ships with copd into a folder: rows, pictures and a recipe on them.

    Try `copd example own_data mine`, then `copd train mine/recipe.yaml`.
    """
    from copd.commands.example import RECIPE_FILE, copy_example

    console = Console()
    files = copy_example(name, out)
    console.print(f"{len(files)} files in {out}", markup=False, soft_wrap=True)
    recipe = shlex.quote(str(out / RECIPE_FILE))
    console.print(f"train on them from here: copd train {recipe}", markup=False, soft_wrap=True)
