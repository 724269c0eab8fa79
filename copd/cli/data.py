"""The commands `copd data ...`: rows are prepared, checked and filtered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from copd.cli.arguments import Overrides, recipe_and_changes
from copd.errors import RecipeError

data = typer.Typer(
    help="Rows: make them of a published set, check them, and keep those that teach something.", no_args_is_help=True
)


@data.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(metavar="SET", help="polaris, mmfinereason, video40k, or a test set.")],
    out: Annotated[Path, typer.Option(help="Folder of the new rows, SET.jsonl, their pictures and their card SET.md.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files or folders of the set, or hub:OWNER/NAME\\[/FILE]; default the set's own place."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag on the Hugging Face Hub.")] = None,
    media: Annotated[
        Path | None, typer.Option(help="Folder where paths in rows start; default that of their file.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A file of rows, for instance of a test; rows that repeat its questions are left out."),
    ] = None,
) -> None:
    """Make rows of a published set, and count what is left out and why. Licences are named; no code of a set is run.

    Each row gets the verifier that its answer needs. Left out are rows that no verifier can compare, bad rows, and
    questions that occur twice.
    """
    from copd.data.prepare import prepare

    made = prepare(name, sources or [], out, revision=revision, media=media, without=without or ())
    print(f"{made.about.title}; licence: {made.about.licence}")
    for line in made.lines():
        print(line)
    for remark in made.about.remarks:
        print(f"  {remark}")
    where = "" if made.data_root is None else f", with data_root {made.data_root}"
    print(f"{made.file}: {made.written} rows{where}; {made.file.with_suffix('.md')} tells what they are")


@data.command("check")
def check(
    file: Annotated[
        str | None, typer.Argument(help="A .jsonl, .json or .parquet file; default: all files of the branch.")
    ] = None,
    overrides: Overrides = None,
    format_name: Annotated[
        Literal["auto", "native", "verl", "trl", "easyr1"],
        typer.Option("--format", help="native = copd's own columns; auto = recognised by the columns."),
    ] = "auto",
    root: Annotated[str | None, typer.Option(help="Folder of images and videos; default that of the file.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Read the rows as this recipe reads them.")] = None,
    branch: Annotated[str | None, typer.Option(help="The branch of the recipe; default its only one on rows.")] = None,
    media: Annotated[bool, typer.Option(help="Decode images and videos; else only look for their files.")] = True,
    show: Annotated[
        int | None, typer.Option(min=0, help="Bad rows to report, per file or split; default all. All are counted.")
    ] = None,
) -> None:
    """Check rows without a model. Report each bad row by file, line and reason, and count rows by kind and verifier.

    A row is bad if an earlier row of its file has its id.

    Exit status 0: all rows are sound. 1: some are bad. 2: a file cannot be read, or the command is wrong.
    """
    from copd.assemble.rows import only_rows_branch
    from copd.data.check import check_branch, check_file
    from copd.recipe.reading import load_recipe

    named, changes = recipe_and_changes(file, overrides)
    if recipe is not None:
        if given := [*["--format"] * (format_name != "auto"), *["--root"] * (root is not None)]:
            raise RecipeError(f"{given[0]}: found beside --recipe, whose branch says it; leave it out")
        settings = load_recipe(recipe, changes)
        of = branch or only_rows_branch(settings)
        reports = check_branch(settings, of, print, file=named, media=media, most=show)
    else:
        if given := [*["--branch"] * (branch is not None), *changes]:
            raise RecipeError(
                f"{given[0]}: found without --recipe, which alone has a use for it; add --recipe or leave it out"
            )
        if named is None:
            raise RecipeError("FILE: missing; give a file of rows, or --recipe, whose branch names its files")
        reports = check_file(named, print, format_name=format_name, root=root, media=media, most=show)
    for line in (line for report in reports for line in report.lines()):
        print(line)
    raise typer.Exit(int(any(report.bad for report in reports)))


@data.command("filter")
def filter_rows(
    recipe: Annotated[str, typer.Option(help="The recipe that gives rows, base, sampling and graders.")],
    branch: Annotated[str, typer.Option(help="The branch of the recipe.")],
    out: Annotated[Path, typer.Option(help="The new file; rows of .parquet files go to a .parquet file.")],
    file: Annotated[str | None, typer.Argument(help="One file; default: all training files of the branch.")] = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="A model folder, or builtin:NAME; default the base.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Responses to each row; default sampling.rollouts_per_prompt.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Copies of the model, with backend=processes or ray; default one for each card."),
    ] = None,
    at_most: Annotated[
        int | None, typer.Option(min=1, help="Keep so many rows at most, chosen by the seed and their places.")
    ] = None,
) -> None:
    """Keep the training rows that a model answers rightly only sometimes. A pass rate of 0 or 1 teaches GRPO nothing.

    Rows are written unchanged and in their order. Rows that the recipe cuts off for validation and test are kept. The
    answers so far are in OUT.progress.jsonl until OUT is written. After an interruption the same command goes on.
    """
    from copd.data.filter import filter_rows
    from copd.recipe.reading import load_recipe

    named, changes = recipe_and_changes(file, overrides)
    settings = load_recipe(recipe, changes)
    found, passed_on = filter_rows(
        settings, branch, out, file=named, model=model, samples=samples, workers=workers, at_most=at_most
    )
    for line in found.summary():
        print(line)
    if passed_on:
        print(f"  kept unasked, rows for validation and test: {passed_on}")
    print(f"{out}: {len(found.kept) + passed_on} rows, for branches.{branch}.task.train")
