"""The command `copd init`: a recipe for files and a model."""

from __future__ import annotations

from typing import Annotated

import typer

from copd.cli.arguments import say


def init(
    files: Annotated[
        list[str],
        typer.Argument(help="Files of rows, one for each branch: .jsonl, .json, .parquet, or hub:OWNER/NAME/FILE."),
    ],
    model: Annotated[
        str,
        typer.Option(help="A model folder, builtin:digits, or an id of the Hugging Face Hub, perhaps with @REVISION."),
    ],
) -> None:
    """Write a recipe for your files to stdout, with comments. What it guesses, and warnings, go to stderr.

    Each file becomes a branch: its columns, kind, verifier and splits are guessed. No weights are read.

    Try `copd init --model builtin:digits rows.jsonl > my.yaml`, and then `copd doctor my.yaml`.
    """
    from copd.commands.init import recipe_for

    print(recipe_for(model, files, say), end="")
