"""The command `copd benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from copd.cli.arguments import busy, models_and_changes, say

if TYPE_CHECKING:  # torch is loaded only once the suite is known to be sound
    from copd.suites.results import Result


def benchmark(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [MODEL ...] [section.key=value ...]",
            help="Models: each is a folder, builtin:NAME, RUN@STEP, or ID@REVISION of Hugging Face. "
            "Then fields of a recipe about the machine, such as sampling.engine=vllm.",
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder with NAME.jsonl for each benchmark that copd asks itself.")],
    out: Annotated[Path, typer.Option(help="Folder for results; those that are there are not measured again.")],
    suite: Annotated[str, typer.Option(help="A suite of copd by its name, or the file of one of yours.")] = "paper",
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be repeated.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N problems of each benchmark, marked in the table.")
    ] = None,
    harness_python: Annotated[
        str | None,
        typer.Option(
            envvar="COPD_HARNESS_PYTHON",
            help="The Python of the environment that holds lmms-eval or lm-eval, for benchmarks that those ask.",
        ),
    ] = None,
) -> None:
    """Measure models on public benchmarks, and show them beside published numbers: OUT/benchmarks.md."""
    from copd.suites.suite import load_suite

    models, changes = models_and_changes(words)
    settings = load_suite(suite)
    with busy("loading PyTorch and transformers") as tell:
        from copd.commands.benchmark import PAGE, benchmark_models
        from copd.commands.benchmark_call import Call
        from copd.suites.table import as_tables, notes

        asked = Call(settings, data, out, only or (), limit, changes, harness_python, tell, _say)
        results = benchmark_models(models, asked)
    console = Console()
    console.print(*as_tables(settings, results), sep="\n", crop=False)
    for note in notes(settings, results):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written: {out / PAGE}", markup=False, soft_wrap=True)


def _say(result: Result) -> None:
    share = 100 * sum(result.means) / len(result.means)
    say(f"{result.model}: {result.benchmark} {share:.1f} % of {len(result.means)} problems, {result.seconds:.0f} s")
