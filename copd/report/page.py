"""The report of a run, or of several side by side: one HTML page without scripts or network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from copd.errors import RunFolderError
from copd.files import replace_text
from copd.names import BASE
from copd.report import contents, words
from copd.report.comparison import comparison
from copd.report.figures import (
    draw_accuracy,
    draw_divergence,
    draw_lessons,
    draw_overlap,
    draw_reward,
    draw_signal,
    figure_of,
)
from copd.report.reading import RunRecord, read_run, read_runs

REPORT, PROGRESS, COMPARISON = "report.html", "progress.html", "comparison.html"
PHASES = {"rlvr": "RLVR", "opd": "mutual OPD"}
SECTIONS = {
    "result": "Result",
    "behaviour": "Behaviour",
    "training": "Training",
    "time": "Where the time went",
    "samples": "Samples",
    "configuration": "Configuration",
}


def write_pages(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run, or that of several side by side; returns its path.

    Raises RunFolderError for a folder that is no run, or where the page cannot be written.
    """
    try:
        return write_report(folders[0], out) if len(folders) == 1 else write_comparison(folders, out)
    except OSError as error:
        raise RunFolderError(f"{error.filename}: the page cannot be written: {error.strerror}") from error


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run from its own records; returns its path.

    It is `report.html` in the run folder unless `out` is given; that of a run which is not finished is `progress.html`.
    """
    run = read_run(folder)
    path = out or folder / (REPORT if run.finished else PROGRESS)
    replace_text(path, _environment().get_template("run.html").render(**_run_page(run)))
    if path == folder / REPORT:
        (folder / PROGRESS).unlink(missing_ok=True)
    return path


def write_comparison(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several runs; `comparison.html` beside the first of them unless `out` is given."""
    page = _environment().get_template("comparison.html").render(**comparison(read_runs(folders)))
    path = out or folders[0].resolve().parent / COMPARISON
    replace_text(path, page)
    return path


def _run_page(run: RunRecord) -> dict[str, Any]:
    poor, looked = contents.poor_teachers(run)
    parts = {"time": contents.ledger_rows(run), "samples": contents.sampled_problems(run) if run.samples else []}
    return {
        "run": run,
        "names": list(run.events("behaviour")[0]["accuracy"]),
        "sections": [(key, name) for key, name in SECTIONS.items() if parts.get(key, True)],
        "verdict": words.verdict(run),
        "tables": contents.accuracy_tables(run),
        "differences": run.compared_with(BASE) if run.finished else {},
        "behaviour_figures": _behaviour_figures(run),
        "training_figures": _training_figures(run),
        "matrices": contents.matrices(run),
        "poor": poor,
        "looked": looked,
        "ledger": parts["time"],
        "time": contents.time_spent(run),
        "problems": parts["samples"],
        "coloured": any(answer.get("teacher") for problem in parts["samples"] for answer in problem["answers"]),
        "shaded": any(point["phase"] not in ("start", "rlvr") for point in run.events("behaviour")),
        "settings": [(path, [value], False) for path, value in contents.flattened(run.recipe)],
        "several": False,
    }


def _behaviour_figures(run: RunRecord) -> list[tuple[str, Any, str]]:
    k = max(run.events("behaviour")[0]["overlap"], key=int)
    drawings = (
        (draw_overlap, f"Top-{k} overlap", "Both directions averaged. Higher is more alike."),
        (draw_divergence, "Symmetric KL", "Nats per token, both directions averaged. Lower is more alike."),
    )
    return _drawn(run, drawings)


def _training_figures(run: RunRecord) -> list[tuple[str, Any, str]]:
    drawings = (
        (draw_accuracy, "Validation accuracy", "Greedy; each branch in its own field, and on average over all."),
        (draw_reward, "Reward", "Of each branch's own rollouts, a mean over five steps."),
        (draw_signal, "Groups with signal", "Share of prompts whose responses differ in reward: only they teach."),
        (draw_lessons, "Lessons", "Mean absolute delta of teacher to student, within its bound, nats per token."),
    )
    return _drawn(run, drawings)


def _drawn(run: RunRecord, drawings: Sequence[tuple[Any, str, str]]) -> list[tuple[str, Any, str]]:
    figures = [(title, figure_of(draw, run.records, title), text) for draw, title, text in drawings]
    return [(title, drawing, text) for title, drawing, text in figures if drawing is not None]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("copd.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: list[Callable[..., Any]] = [words.per_cent, words.points, words.signed, words.interval, words.mark]
    functions += [words.points_interval, words.duration, words.counted, words.method_name]
    functions += [contents.share_scale, contents.share_bar, contents.difference_bars]
    environment.filters.update({function.__name__: function for function in functions})
    environment.filters["phase"] = lambda phase: PHASES.get(phase, phase)
    environment.filters["visible"] = lambda text: repr(text)[1:-1] or "◌"
    environment.globals["version"] = version("copd")
    return environment
