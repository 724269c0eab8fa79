"""The tables of a suite: our scores with intervals, our averages beside published ones, in Markdown and on a terminal.

A score is avg@k: the mean over problems of the mean over k samples. Its interval is over problems. An average counts
each benchmark alike, and is shown only if every benchmark of its group was run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.markup import escape
from rich.table import Table

from copd.maths.intervals import stratified_mean
from copd.suites.results import Result
from copd.suites.suite import GROUPS, OVERALL, Suite

PARTLY = "*"
"""Marks a number that is not of the whole benchmark."""
Results = Mapping[str, Mapping[str, Result]]
"""Results by model and benchmark."""


@dataclass(frozen=True)
class Grid:
    """A table as text: its title, the head of each column, and rows."""

    title: str
    head: list[str]
    rows: list[list[str]]


def grids(suite: Suite, results: Results) -> list[Grid]:
    """The scores of each benchmark, and the averages of each group beside the published ones."""
    return [_scores(suite, results), _averages(suite, results)]


def _scores(suite: Suite, results: Results) -> Grid:
    rows = []
    for name, benchmark in suite.benchmarks.items():
        own = {model: found[name] for model, found in results.items() if name in found}
        cells = [_cell(suite, [own[model]]) if model in own else "not run" for model in results]
        rows.append([benchmark.group, name, benchmark.engine, str(benchmark.samples), str(benchmark.problems), *cells])
    rows.sort(key=lambda row: GROUPS.index(row[0]))
    head = ["group", "benchmark", "asked by", "k", "problems", *results]
    return Grid("avg@k in %, with 95 % intervals over problems", head, rows)


def _averages(suite: Suite, results: Results) -> Grid:
    groups = [group for group in GROUPS if any(each.group == group for each in suite.benchmarks.values())]
    rows = []
    for model, found in results.items():
        of_groups = [_average(suite, found, group) for group in groups]
        rows.append([model, *of_groups, _average(suite, found, None)])
    for name, reference in suite.reference.items():
        numbers = [getattr(reference, group) for group in (*groups, OVERALL)]
        rows.append([f"{name} (not ours)", *("" if n is None else f"{n:.2f}" for n in numbers)])
    title = "averages in %, each benchmark counts alike; overall: over benchmarks, not over groups"
    return Grid(title, ["model", *groups, OVERALL], rows)


def _average(suite: Suite, found: Mapping[str, Result], group: str | None) -> str:
    names = [name for name, each in suite.benchmarks.items() if group in (None, each.group)]
    there = [found[name] for name in names if name in found]
    return _cell(suite, there) if len(there) == len(names) else f"{len(there)} of {len(names)}"


def _cell(suite: Suite, results: Sequence[Result]) -> str:
    scores = [torch.tensor(result.means, dtype=torch.float64) for result in results]
    value, low, high = (100 * share for share in stratified_mean(scores))
    partly = any(is_partial(suite, result) for result in results)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]{PARTLY if partly else ''}"


def is_partial(suite: Suite, result: Result) -> bool:
    """Whether a result is of another number of problems than the whole benchmark has."""
    return len(result.scores) != suite.benchmarks[result.benchmark].problems


def notes(suite: Suite, results: Results) -> list[str]:
    """What a reader should know of the tables, a line each."""
    sampling = suite.sampling
    drawn = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, top_k {sampling.top_k or 'all'}"
    told = [
        f"Responses: {'greedy' if sampling.greedy else drawn}; at most {sampling.max_new_tokens} tokens; "
        f"seed {suite.seed}."
    ]
    every = [result for found in results.values() for result in found.values()]
    if any(is_partial(suite, result) for result in every):
        told.append(f"{PARTLY} not the whole benchmark: {'; '.join(dict.fromkeys(_partial(suite, every)))}.")
    for result in every:
        responses = len(result.scores) * result.samples
        if result.cut:
            told.append(f"{result.model}, {result.benchmark}: {result.cut} of {responses} responses were truncated.")
        if result.placeholders:
            told.append(
                f"{result.model}, {result.benchmark}: {result.placeholders} of {responses} responses hold a "
                "placeholder of an image or video, which the model's vocabulary mask forbids."
            )
    for source in dict.fromkeys(each.source for each in suite.reference.values()):
        names = [name for name, each in suite.reference.items() if each.source == source]
        told.append(f"Not ours, but printed in {source}: {', '.join(names)}.")
    return [*told, *suite.notes]


def _partial(suite: Suite, results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        if is_partial(suite, result):
            whole = suite.benchmarks[result.benchmark].problems
            yield f"{result.benchmark} has {whole} problems, {len(result.scores)} were asked"


def as_markdown(suite: Suite, results: Results) -> str:
    """The page: tables and notes."""
    lines = [f"# {suite.title}", ""]
    for grid in grids(suite, results):
        lines += [f"{grid.title[:1].upper()}{grid.title[1:]}:", ""]
        lines += [_line(grid.head), _line(["---"] * len(grid.head)), *map(_line, grid.rows), ""]
    return "\n".join([*lines, *(f"- {_plain(each)}" for each in notes(suite, results)), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """A text without what Markdown would read as a list, a cell or stress."""
    return re.sub(r"([|*])", r"\\\1", text)


def as_tables(suite: Suite, results: Results) -> list[Table]:
    """The same tables for a terminal."""
    tables = []
    for grid in grids(suite, results):
        table = Table(title=escape(grid.title), title_justify="left")
        for name in grid.head:
            table.add_column(escape(name), overflow="fold")
        for row in grid.rows:
            table.add_row(*map(escape, row))
        tables.append(table)
    return tables
