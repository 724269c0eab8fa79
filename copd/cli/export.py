"""The command `copd export`: the models of a checkpoint as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from copd.cli.arguments import busy


def export(
    run: Annotated[Path, typer.Argument(help="The run folder. The run may still train, be stopped, or be done.")],
    step: Annotated[
        str, typer.Option(help="The checkpoint: its number of steps, last, or best (checkpoint.keep_best).")
    ] = "last",
    out: Annotated[Path | None, typer.Option(help="Folder for the models; default RUN/exports/step-N.")] = None,
) -> None:
    """Write the models of a checkpoint as model folders: each branch, and their merge by the recipe's section.

    To use one of them without a folder, name it where a command takes a model: RUN@STEP is the product of the run,
    RUN/branches/NAME@STEP a branch.
    """
    from copd.commands.export import export as write

    with busy("loading") as tell:
        made = write(run, step, out, tell)
    console = Console()
    for folder in made.folders:
        console.print(str(folder), markup=False, soft_wrap=True)
    if made.left_out:
        console.print(f"left out: {made.left_out}", markup=False, soft_wrap=True)
