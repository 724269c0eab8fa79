"""`copd benchmark`: models on a suite of public benchmarks, one file for each model and benchmark, and one table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from copd.assemble.assembled import Assembled, assembled
from copd.commands.export import folders_of
from copd.errors import DataError, RecipeError
from copd.model.folders import FETCHED, model_folder
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.rows.rows import Rows
from copd.suites.own import as_recipe, ask
from copd.suites.results import Result, check_same, folder_name, make_folder, place_of, read_result, write_result
from copd.suites.suite import ROWS, Suite
from copd.suites.table import as_markdown
from copd.system.files import replace_text, sha256
from copd.types import Split

PAGE = "benchmarks.md"
MACHINE = ("model.", "sampling.engine", "sampling.cache_tokens", "sampling.vllm_cache_gib", "reward.")
"""What the fields of a recipe begin with that a call may change: all else of a measurement is the suite's."""
LIBRARIES = ("copd", "torch", "transformers")
logger = logging.getLogger(__name__)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Call:
    """What a call of the command asks for. `limit`: only the first problems of each benchmark."""

    suite: Suite
    data: Path
    out: Path
    only: Sequence[str] = ()
    limit: int | None = None
    changes: Sequence[str] = ()
    tell: Tell = field(default=lambda what: None)

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in self.suite.benchmarks:
                raise RecipeError(f"--only {name}: unknown benchmark; accepted: {', '.join(self.suite.benchmarks)}")
        for change in self.changes:
            if not change.startswith(MACHINE):
                raise RecipeError(
                    f"{change}: belongs to the suite; accepted are fields of the machine, which begin with "
                    f"{', '.join(MACHINE)}; for another measurement write a suite of your own"
                )

    @property
    def names(self) -> list[str]:
        """The benchmarks that are asked, in the order of the suite."""
        return [name for name in self.suite.benchmarks if not self.only or name in self.only]

    def rows(self, name: str) -> Path | None:
        """The file of rows of a benchmark; None if a harness fetches its problems."""
        benchmark = self.suite.benchmarks[name]
        return None if benchmark.task is not None else self.data / f"{benchmark.rows or name}.jsonl"

    def settings(self, name: str) -> dict[str, Any]:
        """All that a result depends on, beside model and rows, as JSON holds it."""
        benchmark = self.suite.benchmarks[name]
        harness = self.suite.harnesses.get(benchmark.engine)
        found = {
            **benchmark.model_dump(exclude={"group", "problems"}),
            **self.suite.sampling.model_dump(),
            "seed": self.suite.seed,
            "harness": None if harness is None else harness.model_dump(),
            "limit": self.limit,
            "changes": sorted(self.changes),
        }
        return json.loads(json.dumps(found))


def benchmark_models(models: Sequence[str], call: Call) -> dict[str, dict[str, Result]]:
    """The results of models on the benchmarks of a call, those of earlier calls among them.

    Each result is written as soon as it is there, and what is written already is not measured again. At the end
    `benchmarks.md` has the tables. Raises ModelFolderError, DataError or RecipeError, mostly before any model is
    loaded: for a model, a file of rows or a benchmark that is not there, and for a written result of other settings.
    """
    models = list(dict.fromkeys(models))
    if len({folder_name(model) for model in models}) < len(models):
        raise RecipeError(f"MODEL: two of {', '.join(models)} have one folder below --out; name one by another path")
    sums = {name: _sum_of_rows(call, name) for name in call.names}
    with folders_of(dict.fromkeys(models, "MODEL"), call.tell) as folders:
        for model, named in folders.items():
            folder = model_folder(named)
            call.tell(f"{model}: reading its files")
            known = {"model": model, "model_sha256": _sum_of_model(folder)}
            due = [name for name in call.names if not _is_done(call, name, known, sums[name])]
            _ask_rows(call, [name for name in due if call.suite.benchmarks[name].engine == ROWS], folder, known, sums)
    results = {model: _results(call, model) for model in models}
    replace_text(call.out / PAGE, as_markdown(call.suite, results))
    return results


def _is_done(call: Call, name: str, known: dict[str, str], rows_sha256: str) -> bool:
    path = place_of(call.out, known["model"], name)
    found = read_result(path)
    if found is None:
        return False
    check_same(path, found, {"settings": call.settings(name), "rows_sha256": rows_sha256, **known})
    return True


def _results(call: Call, model: str) -> dict[str, Result]:
    """All results of a model in the folder, those of benchmarks that this call leaves out too."""
    found = {name: read_result(place_of(call.out, model, name)) for name in call.suite.benchmarks}
    return {name: result for name, result in found.items() if result is not None}


def _sum_of_rows(call: Call, name: str) -> str:
    path = call.rows(name)
    if path is None:
        return ""
    if not path.is_file():
        others = ", ".join(each for each in call.names if each != name)
        leave = f", or leave the benchmark out by --only ({others})" if others else ""
        raise DataError(f"{path}: no such file; `copd data prepare {path.stem} --out {call.data}` writes it{leave}")
    return sha256(path)


def _sum_of_model(folder: Path) -> str:
    """The digest of a model's files, by name and content."""
    paths = sorted({path for pattern in FETCHED for path in folder.glob(pattern)})
    return hashlib.sha256("".join(f"{sha256(path)}  {path.name}\n" for path in paths).encode()).hexdigest()


def _ask_rows(call: Call, names: list[str], folder: Path, known: dict[str, str], sums: dict[str, str]) -> None:
    """Ask a model the benchmarks on rows, with one copy of it in memory."""
    if not names:
        return
    model = known["model"]
    with assembled(_recipe(call, names, str(folder)), logger.warning) as made:
        counts = _asked_rows(made, names, call.limit)
        call.tell(f"{model}: loading")
        actor = made.actor(model, made.model(str(folder), model))
        for name in names:
            samples = call.suite.benchmarks[name].samples
            call.tell(f"{model}: {name}, {counts[name]} problems, {samples} responses to each")
            fields = {
                **known,
                "settings": call.settings(name),
                "rows_sha256": sums[name],
                "versions": {library: version(library) for library in LIBRARIES},
            }
            result, responses = ask(actor, call.suite, name, counts[name], fields)
            path = place_of(call.out, model, name)
            make_folder(path.parent)
            lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in responses)
            replace_text(path.with_suffix(".responses.jsonl"), lines)
            write_result(call.out, result)


def _recipe(call: Call, names: list[str], folder: str) -> Recipe:
    files = {name: str(call.rows(name)) for name in names}
    return load_recipe(as_recipe(call.suite, names, files, folder), call.changes)


def _asked_rows(made: Assembled, names: list[str], limit: int | None) -> dict[str, int]:
    """How many problems of each benchmark are asked. All of them are tried before the first is."""
    counts = {}
    for name in names:
        task = made.tasks[name]
        assert isinstance(task, Rows)
        counts[name] = min(limit or task.size(Split.TEST), task.size(Split.TEST))
        task.ask({Split.TEST: counts[name]})
    return counts
