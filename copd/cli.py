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
from rich.markup import escape
from rich.text import Text

from copd.assemble import SERVER
from copd.cli_arguments import Changes, Overrides, RecipeName, busy, named_recipe, recipe_and_changes, say
from copd.cli_ask import ask
from copd.cli_compare import advise, compare
from copd.cli_data import data
from copd.cli_example import example
from copd.cli_export import export
from copd.cli_init import init
from copd.cli_plan import plan
from copd.cli_push import push
from copd.cli_recipe import recipes
from copd.cli_watch import watch
from copd.commands.exits import DEBUG, leave, status_of
from copd.errors import RecipeError

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


Compared = Annotated[
    str | None,
    typer.Option(help="The recipe whose problems are asked; default that of the run in which a model lies, else demo."),
]


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML file, or a builtin recipe by name. With --resume and --out: the run's own."),
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
            help="With --resume: go on although recipe, data, base or versions changed. "
            "The manifest records what changed.",
        ),
    ] = False,
) -> None:
    """Train the branches of a recipe, merge them, evaluate all models, and write a report.

    Try `copd train demo`. Then try a baseline at the same number of rollouts: `copd train demo method=mixed`.
    """
    from copd.recipe.keys import without_keys
    from copd.recipe.reading import load_recipe, reread
    from copd.runs.folder import saved_recipe
    from copd.system.processes import begin_to_import, importing

    source: str | Mapping[str, Any] | None
    source, changes = recipe_and_changes(recipe, overrides)
    if resume and out is not None and source is None:
        source = saved_recipe(out, reread)
    settings = load_recipe(source, changes) if source else load_recipe(*named_recipe(recipe, overrides))
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
    from copd.commands.doctor import examine

    console, verdicts = Console(), []
    for finding in examine(settings):
        verdict = (f"{finding.verdict:8}", {"ok": "green", "warning": "yellow", "failed": "bold red"}[finding.verdict])
        console.print(Text.assemble(verdict, (finding.check, "bold"), f": {finding.found}"), soft_wrap=True)
        verdicts.append(finding.verdict)
    console.print(f"{len(verdicts)} checks: {verdicts.count('warning')} warnings, {verdicts.count('failed')} failed")
    raise typer.Exit(int("failed" in verdicts))


@app.command("eval")
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="Models: each is a folder, builtin:NAME, RUN@STEP, or ID@REVISION of Hugging Face."),
    ],
    recipe: Compared = None,
    change: Changes = None,
) -> None:
    """Compare models on the test problems of a recipe, capability by capability, and each model with the first."""
    from copd.commands.compared import compared_recipe

    settings = compared_recipe(recipe, models, change or [], say)
    from copd.commands.evaluate import evaluate_models
    from copd.runs.tables import accuracy_table

    table, compared = evaluate_models(settings, models)
    title = "greedy accuracy on test problems, %, with 95 % intervals over problems"
    if compared:
        title += f"\nbelow: points more than {models[0]} on the same problems, bold where the interval leaves out 0"
    Console().print(accuracy_table(table, escape(title), compared=compared))


@app.command()
def behaviour(
    student: Annotated[
        str,
        typer.Argument(help="The model that answers: a folder, builtin:NAME, RUN@STEP, or ID@REVISION of the hub."),
    ],
    teacher: Annotated[
        str, typer.Argument(help="The model that scores the student's tokens: named in the same ways as the student.")
    ],
    recipe: Compared = None,
    problems: Annotated[
        int | None,
        typer.Option(min=1, help="Validation problems per capability; default evaluation.behaviour_problems."),
    ] = None,
    change: Changes = None,
) -> None:
    """Compare a student with a teacher capability by capability: overlap, KL, and the tokens they dispute most."""
    from copd.commands.compared import compared_recipe

    settings = compared_recipe(recipe, [student, teacher], change or [], say)
    from copd.commands.behaviour import compare_behaviour
    from copd.runs.tables import behaviour_table, disputes_table

    found = compare_behaviour(settings, student, teacher, problems)
    console = Console()
    title = f"{teacher} as teacher of {student}, over the tokens of the student's own answers to validation problems"
    console.print(behaviour_table(found, escape(title)))
    for each in found:
        console.print(disputes_table(each))
    console.print("delta = teacher's log-prob less the student's, nats; at most one token of each response")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; default report.html in the run, or comparison.html beside the runs."),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run, or one that compares several runs."""
    from copd.report.page import write_pages

    Console().print(f"report: {write_pages(runs, out)}", markup=False, soft_wrap=True)


@app.command()
def merge(
    branches: Annotated[
        list[str],
        typer.Argument(help="Models: each is a folder, builtin:NAME, RUN@STEP, or ID@REVISION of Hugging Face."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged model.")],
    base: Annotated[
        str | None, typer.Option(help="The branches' base: a folder, builtin:NAME, RUN@STEP or ID@REVISION.")
    ] = None,
    method: Annotated[str, typer.Option(help="mean, weighted, task_arithmetic, ties, dare or slerp.")] = "mean",
    weight: Annotated[
        list[float] | None, typer.Option(help="With weighted, ties, slerp: a number, once per branch.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="With task_arithmetic, ties, dare: factor of the change that is added to the base."),
    ] = None,
    density: Annotated[float | None, typer.Option(help="With ties, dare: share of each change that is kept.")] = None,
    seed: Annotated[int | None, typer.Option(help="With dare: decides which entries are kept.")] = None,
    export_dtype: Annotated[
        str | None, typer.Option(help="Type of the merged weights: float32 or bfloat16; default: the branches'.")
    ] = None,
    scan: Annotated[
        bool,
        typer.Option(
            "--scan", help="Try a grid of weights or scales; keep the merge that is best on validation problems."
        ),
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="With --scan: the recipe whose validation problems decide; default as for eval.")
    ] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="With --scan: section.key=value.")] = None,
    grid: Annotated[
        int | None, typer.Option(min=1, help="With --scan: weights and scales are multiples of 1/GRID; default 6.")
    ] = None,
) -> None:
    """Merge branches of one base into one model. One tensor of each branch is in memory at a time.

    Try `copd merge runs/demo/branches/text runs/demo/branches/video --out runs/both`.
    """
    from copd.commands.compared import compared_recipe
    from copd.recipe.merges import make_merge, merge_grid

    for option, value in (("--recipe", recipe), ("--set", change), ("--grid", grid)):
        if value and not scan:
            raise RecipeError(
                f"{option}: found without --scan, which alone has a use for it; add --scan or leave it out"
            )
    given = {"method": method, "weights": weight or None, "scale": scale, "density": density, "seed": seed}
    candidates = merge_grid(given, len(branches), grid or 6) if scan else [make_merge(given, len(branches))]
    settings = compared_recipe(recipe, branches, change or [], say) if scan else None
    from copd.commands.merge import described_merge, merge_models
    from copd.runs.tables import accuracy_table

    chosen, table = merge_models(branches, base, candidates, out, settings, export_dtype)
    if table:
        Console().print(accuracy_table(table, "greedy accuracy on validation problems, %", intervals=False))
        said = "chosen on validation problems, which flatters the choice; `copd eval` judges it on test problems"
        Console().print(said, soft_wrap=True)
    Console().print(f"{described_merge(chosen)}: {out}", markup=False, soft_wrap=True)


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
