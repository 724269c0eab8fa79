"""Engine `rows`: copd's own sampler and verifiers ask the rows of a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from copd.measure.evaluate import digest
from copd.suites.results import Result
from copd.suites.suite import ROWS, Sampling, Suite
from copd.types import Rollouts, Split


class Asked(Protocol):
    """A model that answers the problems of tasks, as `copd.branches.actor.Actor` does."""

    def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts: ...

    def texts(self, rollouts: Rollouts) -> list[str]: ...


def as_recipe(suite: Suite, names: list[str], files: Mapping[str, str], model: str) -> dict[str, Any]:
    """The recipe that reads the rows of benchmarks and asks a model as the suite says, as nested mappings.

    Each benchmark is a branch. `files`: the file of each. All three splits are the file, and only test is asked.
    """
    branches = {}
    for name in names:
        benchmark = suite.benchmarks[name]
        task = {"kind": ROWS, **dict.fromkeys((split.value for split in Split), files[name])}
        given = {field: getattr(benchmark, field) for field in ("verifier", "system_prompt", "prompt_template")}
        branches[name] = {"task": task | {field: value for field, value in given.items() if value is not None}}
    return {
        "seed": suite.seed,
        "method": "expert",
        "model": {"path": model},
        "branches": branches,
        "sampling": of_recipe(suite.sampling),
        "evaluation": {"problems": 1, "validation_problems": 1, "behaviour_problems": 1, "pass_at": []},
    }


def of_recipe(sampling: Sampling) -> dict[str, Any]:
    """The sampling of a suite as a recipe's section. Greedy responses need no temperature."""
    named = sampling.model_dump()
    return named | {"temperature": sampling.temperature or 1.0}


def ask(model: Asked, suite: Suite, name: str, count: int, known: Mapping[str, Any]) -> tuple[Result, list[dict]]:
    """The scores of a model on the first `count` problems of a benchmark, and a record of each response.

    `known`: the fields of the result that are known before.
    """
    began = time.perf_counter()
    samples, greedy = suite.benchmarks[name].samples, suite.sampling.greedy
    rollouts = model.answer_first(Split.TEST, name, count, samples, greedy=greedy)
    assert rollouts.correct_N is not None
    scores: list[list[float]] = [[] for _ in rollouts.problems]
    responses = []
    texts = model.texts(rollouts)
    lengths, finished = rollouts.mask_NT.sum(1).tolist(), rollouts.finished_N.tolist()
    for n, p in enumerate(rollouts.prompt_of_N.tolist()):
        score = float(rollouts.correct_N[n])
        at = {"id": rollouts.problems[p].id, "sample": len(scores[p])}
        responses.append(at | {"score": score, "finished": finished[n], "tokens": lengths[n], "response": texts[n]})
        scores[p].append(score)
    result = Result(
        benchmark=name,
        ids=[problem.id for problem in rollouts.problems],
        scores=scores,
        seconds=round(time.perf_counter() - began, 1),
        cut=finished.count(False),
        tokens=sum(lengths) / len(lengths),
        further={"problems_sha256": digest(rollouts.problems), "grader_failures": rollouts.grader_failures},
        **known,
    )
    return result, responses
