"""The benchmarks of `copd benchmark` that a harness asks: its own tasks, and tasks that copd writes from rows."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from copd.assemble.assembled import Assembled, assembled
from copd.commands.benchmark_call import Call
from copd.errors import DataError, WriteError
from copd.model.folders import compute_on, load_family
from copd.recipe.reading import load_recipe
from copd.rewards.grading import Response
from copd.suites.harness import CACHE, Run, check_model
from copd.suites.local_tasks import write_task
from copd.suites.own import as_recipe
from copd.suites.results import Result, make_folder, place_of
from copd.suites.samples import Sample, read_samples, scores_of, told_by, with_placeholders
from copd.types import Problem, Split

logger = logging.getLogger(__name__)


def ask_by_harness(call: Call, name: str, folder: Path, python: Path, known: Mapping[str, Any]) -> Result:
    """The result of a model on a benchmark that a harness asks. Its output stays beside the result, in NAME.harness.

    `known`: the fields of the result that are known before. Raises HarnessError, DataError, ModelFolderError,
    RecipeError or WriteError.
    """
    benchmark = call.suite.benchmarks[name]
    check_model(benchmark.engine, folder)
    work = place_of(call.out, known["model"], name).with_suffix(".harness").absolute()
    try:
        if work.exists():  # of a run that did not come to its end
            shutil.rmtree(work)
    except OSError as error:
        raise WriteError(f"{work}: cannot be removed: {error.strerror or error}") from error
    make_folder(work)
    began = time.perf_counter()
    if benchmark.task is None:
        recipe = load_recipe(as_recipe(call.suite, [name], {name: str(call.rows(name))}, str(folder)), call.changes)
        with assembled(recipe, logger.warning) as made:
            return _ask_rows(call, name, folder, python, work, known, made)
    run = _run(call, name, folder, python, work, benchmark.task)
    run.finish()
    samples = read_samples(run.out)
    ids, scores = scores_of(name, benchmark, samples)
    return Result(
        benchmark=name,
        ids=ids,
        scores=scores,
        seconds=round(time.perf_counter() - began, 1),
        placeholders=with_placeholders(samples),
        told=told_by(run.out, benchmark.task, benchmark.metric or ""),
        **known,
    )


def _run(call: Call, name: str, folder: Path, python: Path, work: Path, task: str, tasks: Path | None = None) -> Run:
    engine = call.suite.benchmarks[name].engine
    return Run(
        python=python,
        engine=engine,
        harness=call.suite.harnesses[engine],
        model=folder.absolute(),
        task=task,
        out=work / "out",
        log=work / "log.txt",
        sampling=call.suite.sampling,
        seed=call.suite.seed,
        device=compute_on(call.change("model.device", "auto"), "auto")[0].type,
        limit=None if tasks else call.limit,
        tasks=tasks,
    )


def _ask_rows(
    call: Call, name: str, folder: Path, python: Path, work: Path, known: Mapping[str, Any], made: Assembled
) -> Result:
    """A harness asks the rows, and copd grades its responses."""
    benchmark, began = call.suite.benchmarks[name], time.perf_counter()
    task = made.tasks[name]
    count = call.asked(made, name)
    problems = [task.problem(Split.TEST, index) for index in range(count)]
    tasks = work / "tasks"
    make_folder(tasks)
    own_name = f"copd_{name.lower()}"
    write_task(tasks, benchmark.engine, own_name, problems, call.suite.sampling, benchmark.samples)
    run = _run(call, name, folder, python, work, own_name, tasks)
    run.finish()
    shutil.rmtree(tasks / CACHE, ignore_errors=True)
    samples = read_samples(run.out)
    responses = _as_responses(name, samples, problems, benchmark.samples, folder, call.suite.sampling.max_new_tokens)
    asked = [problem for problem in problems for _ in range(benchmark.samples)]
    grades = made.grader.grade(asked, responses)
    correct = [float(right) for right in grades.correct]
    return Result(
        benchmark=name,
        ids=[problem.id for problem in problems],
        scores=[correct[i : i + benchmark.samples] for i in range(0, len(correct), benchmark.samples)],
        seconds=round(time.perf_counter() - began, 1),
        cut=sum(not response.finished for response in responses),
        placeholders=with_placeholders(samples),
        tokens=sum(len(response.ids_T) + response.finished for response in responses) / len(responses),
        further={"grader_failures": grades.failures},
        **known,
    )


def _as_responses(
    name: str, samples: Sequence[Sample], problems: Sequence[Problem], count: int, folder: Path, most: int
) -> list[Response]:
    """What a harness has logged, as copd grades it. One that is as long as can be counts as truncated.

    Raises DataError if responses are missing.
    """
    texts = {sample.place: sample.responses for sample in samples}
    tokenizer = load_family(folder).tokenizer
    responses = []
    for place, problem in enumerate(problems):
        found = texts.get(place, [])
        if len(found) != count:
            raise DataError(
                f"{name}: problem {problem.id} has {len(found)} responses of the harness, asked were {count}"
            )
        for text in found:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            responses.append(Response(text, torch.tensor(ids, dtype=torch.long), finished=len(ids) < most))
    return responses
