"""The commands about models: `copd eval`, `copd behaviour`, `copd merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from copd.cli.arguments import AsJson, Overrides, ResultFile, busy, check_result_file, give, models_and_changes, say
from copd.errors import RecipeError

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL|section.key=value",
        help="Models: each is a folder, builtin:NAME, RUN@STEP, or ID@REVISION of Hugging Face. "
        "Then fields of the recipe to change.",
    ),
]
Compared = Annotated[
    str | None,
    typer.Option(help="The recipe whose problems are asked; default that of the run in which a model lies, else demo."),
]


def evaluate(
    models: Models,
    recipe: Compared = None,
    as_json: AsJson = False,
    out: ResultFile = None,
) -> None:
    """Compare models on the test problems of a recipe, capability by capability, and each model with the first."""
    from copd.commands.compared import compared_recipe

    check_result_file(out)
    named, changes = models_and_changes(models)
    settings = compared_recipe(recipe, named, changes, say)
    with busy("loading PyTorch and transformers") as tell:
        from copd.commands.evaluate import as_record, evaluate_models
        from copd.runs.tables import accuracy_table

        table, compared = evaluate_models(settings, named, tell)
    title = "greedy accuracy on test problems, %, with 95 % intervals over problems"
    if compared:
        title += f"\nbelow: points more than {named[0]} on the same problems, bold where the interval leaves out 0"
    give([accuracy_table(table, escape(title), compared=compared)], as_record(table, compared), as_json, out)


def behaviour(
    student: Annotated[
        str,
        typer.Argument(help="The model that answers: a folder, builtin:NAME, RUN@STEP, or ID@REVISION of the hub."),
    ],
    teacher: Annotated[
        str, typer.Argument(help="The model that scores the student's tokens: named in the same ways as the student.")
    ],
    overrides: Overrides = None,
    recipe: Compared = None,
    problems: Annotated[
        int | None,
        typer.Option(min=1, help="Validation problems per capability; default evaluation.behaviour_problems."),
    ] = None,
    as_json: AsJson = False,
    out: ResultFile = None,
) -> None:
    """Compare a student with a teacher capability by capability: overlap, KL, and the tokens they dispute most."""
    from copd.commands.compared import compared_recipe

    check_result_file(out)
    settings = compared_recipe(recipe, [student, teacher], overrides or [], say)
    with busy("loading PyTorch and transformers") as tell:
        from copd.commands.behaviour import as_record, compare_behaviour
        from copd.runs.tables import behaviour_table, disputes_table

        found = compare_behaviour(settings, student, teacher, problems, tell)
    title = f"{teacher} as teacher of {student}, over the tokens of the student's own answers to validation problems"
    shown: list[RenderableType] = [
        behaviour_table(found, escape(title)),
        *map(disputes_table, found),
        "delta = teacher's log-prob less the student's, nats; at most one token of each response",
    ]
    give(shown, as_record(student, teacher, found), as_json, out)


def merge(
    branches: Models,
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
    grid: Annotated[
        int | None, typer.Option(min=1, help="With --scan: weights and scales are multiples of 1/GRID; default 6.")
    ] = None,
) -> None:
    """Merge branches of one base into one model. One tensor of each branch is in memory at a time.

    Try `copd merge runs/demo/branches/text runs/demo/branches/video --out runs/both`.
    """
    from copd.commands.compared import compared_recipe
    from copd.recipe.merges import make_merge, merge_grid

    named, changes = models_and_changes(branches)
    for given, value in (("--recipe", recipe), (" ".join(changes), changes), ("--grid", grid)):
        if value and not scan:
            raise RecipeError(
                f"{given}: found without --scan, which alone has a use for it; add --scan or leave it out"
            )
    how = {"method": method, "weights": weight or None, "scale": scale, "density": density, "seed": seed}
    candidates = merge_grid(how, len(named), grid or 6) if scan else [make_merge(how, len(named))]
    settings = compared_recipe(recipe, named, changes, say) if scan else None
    from copd.commands.merge import described_merge, merge_models
    from copd.runs.tables import accuracy_table

    chosen, table = merge_models(named, base, candidates, out, settings, export_dtype)
    if table:
        Console().print(accuracy_table(table, "greedy accuracy on validation problems, %", intervals=False))
        said = "chosen on validation problems, which flatters the choice; `copd eval` judges it on test problems"
        Console().print(said, soft_wrap=True)
    Console().print(f"{described_merge(chosen)}: {out}", markup=False, soft_wrap=True)
