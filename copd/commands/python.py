"""What `copd.train` and its like do: the commands, with rows and functions that a program hands over."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from copd.commands.compare import Order, run_comparison
from copd.commands.compared import compared_recipe
from copd.commands.evaluate import evaluate_models
from copd.commands.merge import merge_models
from copd.commands.train import train as run
from copd.errors import JobError, RecipeError, RunFolderError
from copd.measure.compare import Difference
from copd.measure.evaluate import Accuracy
from copd.recipe.merges import make_merge
from copd.recipe.model import Recipe
from copd.recipe.reading import make_recipe, recipe_data
from copd.runs.folder import STARTED, occupied, run_folder
from copd.runs.given import by_split, write_rows
from copd.runs.lifecycle import BUSY, in_use
from copd.runs.runlog import METRICS, REPORT, RUN_MANIFEST, read_lines
from copd.runs.saved import result_of
from copd.runs.screen import Screen
from copd.system.own_code import running
from copd.types import MERGED

Source = Recipe | str | Path | Mapping[str, Any]
Place = str | os.PathLike[str]
logger = logging.getLogger(__name__)


class Run:
    """A run folder, of a run that has ended or still goes on. It stands for its path wherever a path is accepted."""

    def __init__(self, folder: Place) -> None:
        """Raises RunFolderError if there is no run in the folder."""
        self.folder = Path(folder)
        if not (self.folder / RUN_MANIFEST).is_file():
            raise RunFolderError(f"{self.folder}: is no run folder ({RUN_MANIFEST} is missing)")

    @property
    def table(self) -> list[Accuracy]:
        """The final table, a cell for each model and capability; empty before the end of the run."""
        return result_of(self.folder)

    def metrics(self, event: str | None = None) -> list[dict[str, Any]]:
        """The records of metrics.jsonl in their order, or those of one event, such as update (docs/metrics.md)."""
        path = self.folder / METRICS
        records = read_lines(path) if path.is_file() else iter(())
        return [record for record in records if event in (None, record["event"])]

    @property
    def merged(self) -> Path | None:
        """The folder of the merged model; None if the method makes none, or has not yet."""
        return self._there(MERGED)

    @property
    def branches(self) -> dict[str, Path]:
        """The folder of each branch's model by its name; empty before the end of the run."""
        return {path.name: path for path in sorted((self.folder / "branches").glob("*")) if path.is_dir()}

    @property
    def report(self) -> Path | None:
        """The page about the run; None before its end."""
        return self._there(REPORT)

    def _there(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.exists() else None

    def __str__(self) -> str:
        return str(self.folder)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


class Evaluation(NamedTuple):
    """Greedy accuracy of each model and capability, and the difference of each model to the first."""

    table: list[Accuracy]
    differences: list[Difference]


class _Quiet(Screen):
    """Prints nothing. Warnings go to Python's logging."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))

    def warn(self, message: str) -> None:
        logger.warning(message)


def train(
    recipe: Source,
    out: Place | None,
    overrides: Sequence[str],
    rows: Mapping[str, Any] | None,
    rewards: Mapping[str, str | Callable[..., Any]] | None,
    *,
    quiet: bool,
    resume: bool,
    force: bool,
) -> Run:
    """`copd.train`."""
    if (file := running()) is not None:
        raise RecipeError(
            f"put the call of copd.train under if __name__ == '__main__': {file} calls copd.train while copd reads it "
            "for what the recipe names in it"
        )
    data = recipe_data(_plain(recipe), _listed("overrides", overrides, least=0))
    rows = _mapped("rows", rows, 'branch to rows, such as {"sums": [...]}')
    rewards = _mapped("rewards", rewards, 'name to function, such as {"mine": f}')
    data["verifiers"] = {**(data.get("verifiers") or {}), **{name: source_of(name, f) for name, f in rewards.items()}}
    given = {branch: by_split(branch, own) for branch, own in rows.items()}
    settings = make_recipe(_on_rows(data, {branch: dict.fromkeys(own, "given") for branch, own in given.items()}))
    folder = run_folder(out, settings.method, settings.seed)
    if given:
        settings = make_recipe(_on_rows(data, _written(folder, given, resume=resume)))
    return Run(run(settings, folder, resume=resume, force=force, screen=_Quiet() if quiet else None))


def evaluate(models: Sequence[Place], recipe: Source | None, overrides: Sequence[str]) -> Evaluation:
    """`copd.evaluate`."""
    asked = [os.fspath(model) for model in _listed("models", models)]
    changes = _listed("overrides", overrides, least=0)
    given = None if recipe is None else _plain(recipe)
    return Evaluation(*evaluate_models(compared_recipe(given, asked, changes, logger.info), asked))


def merge(
    branches: Sequence[Place],
    out: Place,
    method: str,
    base: Place | None,
    export_dtype: str | None,
    settings: Mapping[str, Any],
) -> Path:
    """`copd.merge`."""
    paths = [os.fspath(branch) for branch in _listed("branches", branches)]
    section = make_merge({"method": method, **settings}, len(paths))
    merge_models(paths, None if base is None else os.fspath(base), [section], Path(out), None, export_dtype)
    return Path(out)


def compare(
    file: Place, out: Place, seeds: Sequence[int], workers: int, *, search: bool, tell: Callable[[str], None]
) -> Path:
    """`copd.compare`."""
    from copd.commands.compare import run_search

    order = Order(Path(file), _listed("seeds", seeds), Path(out), workers, tell)
    path, progress = (run_search if search else run_comparison)(order)
    if progress.failed:
        raise JobError(f"{file}: {len(progress.failed)} jobs failed; {path} is about the others")
    return path


def source_of(name: str, function: str | Callable[..., Any]) -> str:
    """A reward function as a recipe names it, path/file.py:NAME. So the file is hashed, and any process can load it.

    Raises RecipeError for a function that no file has at its top level, such as a lambda or one of a notebook.
    """
    if isinstance(function, str):
        return function
    called = getattr(function, "__qualname__", "")
    module = sys.modules.get(getattr(function, "__module__", ""))
    try:
        file = Path(inspect.getsourcefile(function) or "").resolve()
    except TypeError:
        file = Path()
    if file.suffix != ".py" or not file.is_file() or getattr(module, called, None) is not function:
        raise RecipeError(
            f"rewards.{name}: {called or repr(function)[:80]} is not at the top level of a .py file, where grading "
            "processes could load it and a resumed run could check it; accepted: such a function, or path/file.py:NAME"
        )
    inside = file.is_relative_to(Path.cwd())
    return f"{file.relative_to(Path.cwd()) if inside else file}:{called}"


def _listed(name: str, values: Sequence[Any], least: int = 1) -> Sequence[Any]:
    """The values of an argument that is a list. Raises RecipeError for one value alone, or for too few."""
    alone = isinstance(values, str | os.PathLike | Mapping) or not hasattr(values, "__len__")
    if alone or len(values) < least:
        raise RecipeError(f"{name}: found {str(values)[:80]!r}; accepted: a list" + " of one or more" * (least > 0))
    return values


def _mapped(name: str, value: Mapping[str, Any] | None, what: str) -> Mapping[str, Any]:
    """The argument that is a mapping, empty for None. Raises RecipeError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{name}: found {type(value).__name__}; accepted: a mapping of {what}")
    return value


def _plain(recipe: Source) -> str | Path | Mapping[str, Any]:
    return recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else recipe


def _written(folder: Path, rows: Mapping[str, Mapping[str, Any]], *, resume: bool) -> dict[str, dict[str, str]]:
    """The files of a run folder that rows are written into, by branch and split.

    Raises RecipeError for a folder that another process trains into: its rows are not replaced.
    """
    if in_use(folder):
        raise RecipeError(f"--out {folder}: {BUSY}")
    if not resume and occupied(folder, besides=STARTED):
        raise RecipeError(f"--out {folder}: is not empty; give another folder (resume=True goes on with the run in it)")
    return {
        branch: {split: str(write_rows(folder, branch, split, each)) for split, each in own.items()}
        for branch, own in rows.items()
    }


def _on_rows(data: Mapping[str, Any], files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A recipe whose branches take their rows from files, by branch and split. Other fields of their tasks stay."""
    branches = dict(data.get("branches") or {})
    for branch, own in files.items():
        if branch not in branches:
            raise RecipeError(f"rows.{branch}: no branch of this name; branches are {', '.join(branches) or 'none'}")
        section = dict(branches[branch] or {})
        task = section.get("task") or {}
        branches[branch] = {**section, "task": {**(task if task.get("kind") == "rows" else {"kind": "rows"}), **own}}
    return {**data, "branches": branches} if files else dict(data)
