"""The commands. They parse the command line, call what does the work, and exit; they decide nothing."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from copd.assemble import SERVER
from copd.cli.arguments import (
    Overrides,
    RecipeName,
    busy,
    check_result_file,
    named_recipe,
    recipe_and_changes,
    recipes_that_begin,
)
from copd.cli.ask import ask
from copd.cli.benchmark import benchmark
from copd.cli.compare import advise, compare
from copd.cli.data import data
from copd.cli.example import example
from copd.cli.export import export
from copd.cli.init import init
from copd.cli.models import behaviour, evaluate, merge
from copd.cli.plan import plan
from copd.cli.push import push
from copd.cli.recipe import recipes
from copd.cli.watch import watch
from copd.commands.exits import DEBUG, leave, status_of

BEGAN = time.perf_counter()
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(recipes, name="recipe")
app.add_typer(data, name="data")


def _version(asked: bool) -> None:
    if asked:
        print(f"copd {version('copd')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error. The option may stand anywhere.")
    ] = False,
) -> None:
    """Co-Evolving Policy Distillation: several reasoning skills into one model.

    Exit status 0: done. 1: a failure. 2: a mistake in the command, the recipe or the data. 128 + N: ended by signal N.
    """


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A YAML file, or a builtin recipe by name. With --resume and --out: the run's own.",
            autocompletion=recipes_that_begin,
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/METHOD-seedSEED.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder; start one if there is none.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --resume: go on although recipe, data, base or versions changed, which the manifest records; "
            "begin although cards are too small by copd plan.",
        ),
    ] = False,
) -> None:
    """Train the branches of a recipe, merge them, evaluate all models, and write a report.

    Try `copd train demo`. Then try a baseline at the same number of rollouts: `copd train demo method=mixed`.
    `copd train demo-paper` runs the cycles of the paper.
    """
    from copd.assemble.files import check_files
    from copd.recipe.keys import without_keys
    from copd.recipe.reading import load_recipe, reread
    from copd.runs.folder import check_free, run_folder, saved_recipe
    from copd.system.processes import begin_to_import, importing

    source: str | Mapping[str, Any] | None
    source, changes = recipe_and_changes(recipe, overrides)
    if resume and out is not None and source is None:
        source = saved_recipe(out, reread)
    settings = load_recipe(source, changes) if source else load_recipe(*named_recipe(recipe, overrides))
    if not resume:
        check_free(run_folder(out, settings.method, settings.seed), resume)
    check_files(settings)
    if settings.backend.kind == "processes":
        begin_to_import(SERVER)
    with busy("loading PyTorch and transformers"), importing():
        from copd.commands.train import train as run  # torch is loaded only once the recipe is known to be sound
        from copd.runs.screen import Screen

    command = without_keys(shlex.join(["copd", *sys.argv[1:]]))
    run(settings, out, resume=resume, force=force, screen=Screen(imports_began=BEGAN), command=command)


@app.command()
def doctor(
    recipe: RecipeName = None,
    overrides: Overrides = None,
) -> None:
    """Check a recipe before a long run: model, data, graders, signal, log-probs, time, memory, disk.

    Exit status 0: no check failed; there may be warnings. 1: a check failed. 2: the recipe is wrong.
    """
    from copd.recipe.reading import load_recipe

    settings = load_recipe(*named_recipe(recipe, overrides))
    from copd.doctor.examine import examine

    console, verdicts = Console(), []
    for finding in examine(settings):
        verdict = (f"{finding.verdict:8}", {"ok": "green", "warning": "yellow", "failed": "bold red"}[finding.verdict])
        console.print(Text.assemble(verdict, (finding.check, "bold"), f": {finding.found}"), soft_wrap=True)
        verdicts.append(finding.verdict)
    console.print(f"{len(verdicts)} checks: {verdicts.count('warning')} warnings, {verdicts.count('failed')} failed")
    raise typer.Exit(int("failed" in verdicts))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; default report.html in the run, or comparison.html beside the runs."),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run, or one that compares several runs."""
    check_result_file(out)
    from copd.report.page import write_pages

    Console().print(f"report: {write_pages(runs, out)}", markup=False, soft_wrap=True)


@app.command()
def warmup(
    out: Annotated[Path, typer.Argument(help="Folder for the new base model.")] = Path("runs/base"),
    conflict: Annotated[
        float, typer.Option(min=0, max=1, help="Share of problems that follow the capability's own convention.")
    ] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Supervised steps; default: as many as builtin:digits had.")
    ] = None,
) -> None:
    """Build a base for the embedded world: supervised steps teach a tiny Qwen3-VL to answer some of its problems."""
    from copd.commands.warmup import build_base

    build_base(out, conflict=conflict, steps=steps)


app.command("eval")(evaluate)
app.command()(benchmark)
app.command()(behaviour)
app.command()(merge)
app.command()(init)
app.command()(plan)
app.command()(watch)
app.command()(export)
app.command()(ask)
app.command()(compare)
app.command()(advise)
app.command()(push)
app.command()(example)


def main() -> None:
    """Run a command and exit with its status."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    leave(status_of(app, sys.argv[1:]))
