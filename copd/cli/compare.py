"""The commands about methods: which of them to take (`copd advise`), and how they compare (`copd compare`)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from copd.cli.arguments import Overrides, RecipeName, named_recipe


def compare(
    file: Annotated[Path, typer.Argument(help="A YAML file: a recipe, and arms that differ in their overrides.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, results and the page.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="section.key=value ...",
            help="Fields of the recipe to change in all arms. An arm that sets a field itself keeps its own value.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --first-seed on.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at once; default one for each core, or 1 if the file has place: recipe."),
    ] = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="Run the search, not the test: arms choose settings by validation problems."),
    ] = False,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Run the jobs on the Ray cluster of RAY_ADDRESS, else on one of its own.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show jobs, rollouts, tokens and minutes only.")] = False,
) -> None:
    """Train every arm with every seed at one budget, and write a page with differences over seeds.

    A job whose result is in OUT is not run again. A job that fails is reported, and the others go on.

    Exit status 1: some job failed.
    """
    from copd.commands.compare import Order, jobs_on_ray, run_comparison, run_search
    from copd.commands.compare import dry_run as look

    console = Console()
    order = Order(
        file,
        range(first_seed, first_seed + seeds),
        out,
        workers,
        lambda line: console.print(line, markup=False, soft_wrap=True),
        changes=overrides or (),
    )
    if dry_run:
        table = Table("jobs", "seeds", "rollouts", "tokens at most", "minutes here")
        for row in look(order, search=search):
            table.add_row(*row)
        console.print(table)
        return
    with jobs_on_ray(order, workers) if on_ray else nullcontext(order) as placed:
        path, progress = (run_search if search else run_comparison)(placed)
    console.print(f"{progress.skipped} jobs were done before, {len(progress.failed)} failed: {path}", soft_wrap=True)
    raise typer.Exit(int(bool(progress.failed)))


def advise(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of RLVR of each branch; a map has pilots of 20.")] = 20,
    problems: Annotated[
        int | None, typer.Option(min=1, help="Validation problems per capability; default 300, or all there are.")
    ] = None,
) -> None:
    """Say which method suits a recipe: mixed RLVR, distilled experts, or branches that co-evolve.

    A short pilot trains each branch alone, measures what that costs the other capabilities, and is thrown away. The
    map of the study says which method was best where pilots had such numbers.
    """
    from copd.recipe.reading import load_recipe

    settings = load_recipe(*named_recipe(recipe, overrides))
    from copd.commands.advise import advise as run
    from copd.commands.pilot import PilotSettings
    from copd.runs.tables import accuracy_table

    console = Console()

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    table, lines = run(settings, PilotSettings(steps, problems, tell))
    console.print(accuracy_table(table, f"greedy accuracy on validation problems after {steps} steps, %"))
    for line in lines:
        tell(line)
