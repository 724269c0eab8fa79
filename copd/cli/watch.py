"""The command `copd watch`: a page that follows a run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from copd.system.signals import Ended


def watch(
    run: Annotated[Path, typer.Argument(help="Run folder of `copd train`, running or not.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; default any that is free.")] = 0,
) -> None:
    """Serve a page, to this machine only, that follows a run: curves, phases, disputed tokens, samples, warnings.

    Its figures are those of the report. Ctrl-C ends it; the run goes on.
    """
    from copd.commands.watch import Server

    with Server(run, port) as server:
        Console().print(f"watch {run}: {server.address} (Ctrl-C ends this, not the run)", markup=False, soft_wrap=True)
        try:
            server.serve_forever()
        except Ended as ended:
            if ended.number != signal.SIGINT:
                raise
