"""`copd benchmark`: models on a suite of public benchmarks, one file for each model and benchmark, and one table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from copd.assemble.assembled import assembled
from copd.commands.benchmark_call import Call
from copd.commands.by_harness import ask_by_harness
from copd.commands.export import folders_of
from copd.errors import RecipeError
from copd.model.folders import model_folder, sums_of
from copd.recipe.reading import load_recipe
from copd.suites.harness import HarnessError, check_versions, python_of
from copd.suites.own import as_recipe, ask
from copd.suites.results import Result, check_same, folder_name, make_folder, place_of, read_result, write_result
from copd.suites.suite import ROWS
from copd.suites.table import as_markdown
from copd.system.files import replace_text

PAGE = "benchmarks.md"
LIBRARIES = ("copd", "torch", "transformers")
logger = logging.getLogger(__name__)


def benchmark_models(models: Sequence[str], call: Call) -> dict[str, dict[str, Result]]:
    """The results of models on the benchmarks of a suite, those of earlier calls among them.

    Each result is written as soon as it is there, and what is written already is not measured again. At the end
    `benchmarks.md` has the tables. Raises ModelFolderError, DataError or RecipeError, mostly before any model is
    loaded: for a model, a file of rows, a benchmark or a harness that is not there, and for a written result of other
    settings. Raises HarnessError for harnesses that failed, after all else was measured and the page was written, and
    WriteError.
    """
    models = list(dict.fromkeys(models))
    if len({folder_name(model) for model in models}) < len(models):
        raise RecipeError(f"MODEL: two of {', '.join(models)} have one folder below --out; name one by another path")
    sums = {name: call.sum_of_rows(name) for name in call.names}
    with folders_of(dict.fromkeys(models, "MODEL"), call.tell) as named:
        folders = {model: model_folder(path) for model, path in named.items()}
        make_folder(call.out)
        known, due = {}, {}
        for model, folder in folders.items():
            call.tell(f"{model}: reading its files")
            known[model] = {"model": model, "model_sha256": _sum_of_model(folder)}
            due[model] = [name for name in call.names if not _is_done(call, name, known[model], sums[name])]
            _check_others(call, known[model])
        failed: list[str] = []
        python, versions = _harnesses(call, {name for names in due.values() for name in names})
        for model, folder in folders.items():
            fields = {name: _fields(call, name, known[model], sums[name], versions) for name in due[model]}
            _ask_rows(call, call.by_copd(due[model]), folder, fields)
            torch.cuda.empty_cache()  # a harness is another process
            for name in due[model]:
                if call.suite.benchmarks[name].engine != ROWS:
                    assert python is not None
                    call.tell(f"{model}: {name}, by {call.suite.benchmarks[name].engine}")
                    try:
                        _keep(call, ask_by_harness(call, name, folder, python, fields[name]))
                    except HarnessError as error:  # the next benchmark may be in order
                        failed.append(f"{model}: {name}: {error}")
    results = {model: _results(call, model) for model in models}
    replace_text(call.out / PAGE, as_markdown(call.suite, results))
    if failed:
        raise HarnessError("\n".join(failed))
    return results


def _fields(
    call: Call, name: str, known: Mapping[str, str], rows_sha256: str, versions: Mapping[str, dict[str, str]]
) -> dict[str, Any]:
    """The fields of a result that are known before a model is asked."""
    own = {library: version(library) for library in LIBRARIES}
    of_harness = versions.get(call.suite.benchmarks[name].engine, {})
    return {
        **known,
        "settings": call.settings(name),
        "rows_sha256": rows_sha256,
        "versions": {"copd": own["copd"], **of_harness} if of_harness else own,
    }


def _is_done(call: Call, name: str, known: Mapping[str, str], rows_sha256: str) -> bool:
    path = place_of(call.out, known["model"], name)
    found = read_result(path)
    if found is None:
        return False
    check_same(path, found, {"settings": call.settings(name), "rows_sha256": rows_sha256, **known})
    return True


def _check_others(call: Call, known: Mapping[str, str]) -> None:
    """Raise RecipeError for a result that this call does not ask for, but shows, if it is of other settings or weights.

    Its limit, which the table marks, and its fields of the machine may be its own.
    """
    for name in (name for name in call.suite.benchmarks if name not in call.names):
        path = place_of(call.out, known["model"], name)
        if found := read_result(path):
            own = {field: found.settings.get(field) for field in ("limit", "changes")}
            asked = {"settings": call.settings(name) | own, "rows_sha256": found.rows_sha256, **known}
            check_same(path, found, asked)


def _harnesses(call: Call, due: set[str]) -> tuple[Path | None, dict[str, dict[str, str]]]:
    """The Python of the harnesses that will be needed, and the versions that it holds, by engine."""
    engines = sorted({call.suite.benchmarks[name].engine for name in due} - {ROWS})
    if not engines:
        return None, {}
    python = python_of(call.harness_python, engines)
    return python, {engine: check_versions(python, engine) for engine in engines}


def _results(call: Call, model: str) -> dict[str, Result]:
    """All results of a model in the folder, those of benchmarks that this call leaves out too."""
    found = {name: read_result(place_of(call.out, model, name)) for name in call.suite.benchmarks}
    return {name: result for name, result in found.items() if result is not None}


def _sum_of_model(folder: Path) -> str:
    """The digest of a model's files, by name and content."""
    return hashlib.sha256("".join(f"{sum_}  {name}\n" for name, sum_ in sums_of(folder).items()).encode()).hexdigest()


def _ask_rows(call: Call, names: list[str], folder: Path, fields: Mapping[str, dict[str, Any]]) -> None:
    """Ask a model the benchmarks on rows, with one copy of it in memory."""
    if not names:
        return
    model = fields[names[0]]["model"]
    files = {name: str(call.rows(name)) for name in names}
    recipe = load_recipe(as_recipe(call.suite, names, files, str(folder)), call.changes)
    with assembled(recipe, logger.warning) as made:
        counts = {name: call.asked(made, name) for name in names}
        call.tell(f"{model}: loading")
        actor = made.actor(model, made.model(str(folder), model))
        for name in names:
            samples = call.suite.benchmarks[name].samples
            call.tell(f"{model}: {name}, {counts[name]} problems, {samples} responses to each")
            result, responses = ask(actor, call.suite, name, counts[name], fields[name])
            path = place_of(call.out, model, name)
            make_folder(path.parent)
            lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in responses)
            replace_text(path.with_suffix(".responses.jsonl"), lines)
            _keep(call, result)


def _keep(call: Call, result: Result) -> None:
    write_result(call.out, result)
    call.measured(result)
