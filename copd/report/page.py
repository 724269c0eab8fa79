"""The report of a run, or of several runs: one HTML page without scripts or network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from copd.report import contents, words
from copd.report.comparison import comparison
from copd.report.private import absolute_paths, paths_of_command, without_folders
from copd.report.reading import RunRecord, read_run, read_runs
from copd.report.single import single
from copd.runs.numbers import duration, roughly
from copd.runs.runlog import REPORT
from copd.system.files import replace_text
from copd.types import BASE, MERGED

PROGRESS, COMPARISON = "progress.html", "comparison.html"
PHASES = {"rlvr": "RLVR", "opd": "mutual OPD", "replay": "replay", "consolidation": "consolidation"}
SECTIONS = {
    "result": "Result",
    "behaviour": "Behaviour",
    "training": "Training",
    "warnings": "Warnings",
    "time": "Where the time went",
    "samples": "Samples",
    "configuration": "Configuration",
}


def write_pages(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run, or one page about several runs; returns its path.

    Raises RunFolderError for a folder that is not a run, and WriteError if the page cannot be written.
    """
    return write_report(folders[0], out) if len(folders) == 1 else write_comparison(folders, out)


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run from its own records; returns its path.

    The report is `report.html` in the run folder unless `out` is given; for an unfinished run it is `progress.html`.
    """
    run = read_run(folder)
    path = out or folder / (REPORT if run.finished else PROGRESS)
    replace_text(path, rendered("run.html", run_page(run, path.parent), [run]))
    if path == folder / REPORT:
        (folder / PROGRESS).unlink(missing_ok=True)
    return path


def write_comparison(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several runs; `comparison.html` beside the first of them unless `out` is given."""
    runs = read_runs(folders)
    page = rendered("comparison.html", comparison(runs), runs)
    path = out or folders[0].resolve().parent / COMPARISON
    replace_text(path, page)
    return path


def run_page(run: RunRecord, beside: Path | None = None) -> dict[str, Any]:
    """The contents of the page of a run, which lies in the folder `beside`, if it lies in one."""
    own, ledger = single(run), contents.ledger_rows([run])
    parts = {"warnings": own["warnings"], "time": ledger, "samples": own["problems"]}
    return {
        "run": run,
        "own": own,
        "names": list(run.events("behaviour")[0]["accuracy"]),
        "sections": [(key, name) for key, name in SECTIONS.items() if parts.get(key, True)],
        "verdict": words.verdict(run),
        "tables": contents.accuracy_tables(run),
        "differences": run.compared_with(BASE) if run.finished else {},
        "ledger": ledger,
        "time": contents.time_spent(run),
        "settings": [(path, [value], False) for path, value in contents.flattened(run.recipe)],
        "several": False,
        "models": _models_of(run, beside),
    }


def _models_of(run: RunRecord, beside: Path | None) -> list[tuple[str, str]]:
    """The folders of the run's products: as they are shown, and as links from the page; empty where none leads."""
    found = []
    for name in run.products if run.finished else []:
        folder = run.folder / (MERGED if name == MERGED else Path("branches") / name)
        if folder.is_dir():
            link = "" if beside is None else os.path.relpath(folder.resolve(), beside.resolve())
            found.append((f"{folder.relative_to(run.folder).as_posix()}/", "" if link.startswith("..") else link))
    return found


def rendered(template: str, contents: Mapping[str, Any], runs: Sequence[RunRecord] = ()) -> str:
    """A page. Of the paths that these runs name it shows the last names, and `~` for the user's home."""
    named = [path for run in runs for path in (*absolute_paths(run.recipe), *paths_of_command(run.command))]
    return without_folders(environment().get_template(template).render(**contents), named)


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("copd.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: list[Callable[..., Any]] = [words.per_cent, words.points, words.signed, words.interval, words.mark]
    functions += [words.points_interval, duration, roughly, words.counted, words.method_name]
    functions += [contents.share_scale, contents.share_bar, contents.difference_bars]
    environment.filters.update({function.__name__: function for function in functions})
    environment.filters["phase"] = lambda phase: PHASES.get(phase, phase)
    environment.filters["visible"] = lambda text: repr(text)[1:-1] or "◌"
    environment.globals["version"] = version("copd")
    return environment
