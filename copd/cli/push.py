"""The command `copd push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a run that has come to its end.")],
    to: Annotated[str, typer.Option(help="The repository of the Hugging Face Hub, as ORGANISATION/NAME.")],
    branch: Annotated[str | None, typer.Option(help="Push the model of this branch; default the merged model.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A new repository is public; default private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload. Without it, only show what would be uploaded.")] = False,
) -> None:
    """Push a model of a run, with its card and recipe, to the Hugging Face Hub. Without --yes nothing is uploaded.

    Files are looked through first: a folder of this machine, or a key of the environment, in one of them is an error.
    """
    from copd.commands.push import notes, prepare, upload
    from copd.runs.numbers import size

    console = Console()

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    prepared = prepare(run, to, branch)
    for path in prepared.files:
        tell(f"{path.stat().st_size:>15,} bytes  {path.name}")
    for note in notes(prepared):
        tell(f"note: {note}")
    what = f"{len(prepared.files)} files, {size(prepared.bytes)}, from {prepared.folder} to {to}"
    if not yes:
        tell(f"nothing was uploaded: {what}; --yes uploads them into a {'public' if public else 'private'} repository")
        return
    tell(f"uploading {what}")
    tell(f"uploaded: {upload(prepared, public=public)}")
