"""What harnesses log: responses, and the scores that a harness gave its own task."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copd.errors import DataError, wrong_in
from copd.suites.suite import Benchmark

PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Tokens that stand for pictures in prompts. A model of copd never emits one, if the vocabulary mask is heeded."""

NAMED = re.compile(r"(?:.*_)?samples_(.+?)(?:_\d{4}-\d\d-\d\dT.*)?")
"""A file of samples: the date stands before the task in lmms-eval, behind it in lm-eval."""


@dataclass(frozen=True)
class Sample:
    """One problem as a harness has logged it: its task and place, the responses, and the whole record."""

    task: str
    place: int
    responses: list[str]
    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.task}/{self.place}"


def read_samples(out: Path) -> list[Sample]:
    """All samples below a harness's output, by task and place. Raises DataError naming a file that is none of its."""
    found = [sample for path in sorted(out.rglob("*samples_*.jsonl")) for sample in _read(path)]
    return sorted(found, key=lambda sample: (sample.task, sample.place))


def _read(path: Path) -> Iterator[Sample]:
    named = NAMED.fullmatch(path.stem)
    task = named[1] if named else path.stem
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                texts = [*_texts(record.get("resps", record["filtered_resps"]))]
                yield Sample(task, int(record["doc_id"]), texts, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no samples of a harness: {wrong_in(error)}") from error


def _texts(held: Any) -> Iterator[str]:
    """Responses, however deep in lists."""
    if isinstance(held, str):
        yield held
        return
    for item in held:
        yield from _texts(item)


def told_by(out: Path, task: str, metric: str) -> float | str | None:
    """The number that the harness itself prints for a task, None if it prints none."""
    for path in sorted(out.rglob("*results*.json")):
        printed = json.loads(path.read_text(encoding="utf-8"))["results"].get(task, {}).get(f"{metric},none")
        if isinstance(printed, int | float | str):
            return printed
    return None


def with_placeholders(samples: Sequence[Sample]) -> int:
    """How many responses show a placeholder. A harness may have left out special tokens, so this may be too few."""
    return sum(any(mark in text for mark in PLACEHOLDERS) for sample in samples for text in sample.responses)


def scores_of(name: str, benchmark: Benchmark, samples: Sequence[Sample]) -> tuple[list[str], list[list[float]]]:
    """The problems of a harness's own task and the score of each, 0 to 1.

    Raises DataError if samples have no such score.
    """
    kept = None if benchmark.kept is None else _as_json(benchmark.kept)[1:-1]
    counted = [sample for sample in samples if kept is None or kept in _prompt(sample)]
    if not counted:
        raise DataError(f"{name}: none of {len(samples)} samples of {benchmark.task} has the prompt that counts")
    scores = [_score(name, benchmark, sample) for sample in counted]
    if benchmark.steps:
        by_problem = steps_together(counted, scores)
        return list(by_problem), [[score] for score in by_problem.values()]
    return [sample.id for sample in counted], [[score] for score in scores]


def _prompt(sample: Sample) -> str:
    return _as_json(sample.record.get("input", sample.record.get("arguments")))


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _score(name: str, benchmark: Benchmark, sample: Sample) -> float:
    try:
        held = sample.record[benchmark.metric or ""]
        if len(benchmark.score) == 2:
            held = held[benchmark.score[0]] == held[benchmark.score[1]]
        elif benchmark.score:
            held = held[benchmark.score[0]]
        score = float(held)
        if not 0 <= score <= 1:
            raise ValueError(f"{score} is not between 0 and 1")
        return score
    except (KeyError, TypeError, ValueError) as error:
        there = ", ".join(sorted(sample.record))
        where = ".".join(filter(None, (benchmark.metric, " and ".join(benchmark.score))))
        raise DataError(
            f"{name}: sample {sample.id} of {benchmark.task} has no score under {where}: {wrong_in(error)}; a sample "
            f"holds {there}"
        ) from error


def steps_together(samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, float]:
    """WeMath's strict score of each problem of several steps, by its ID (arXiv 2407.01284).

    1 if all steps and the whole are right, 0.5 if the whole is wrong though all steps are right (inadequate
    generalization), else 0: insufficient knowledge, or rote memorization.
    """
    steps: dict[str, list[float]] = defaultdict(list)
    whole: dict[str, float] = {}
    for sample, score in zip(samples, scores, strict=True):
        record = sample.record["wemath_strict"]
        problem = f"{record['key'].partition('steps')[0]}steps/{record['ID']}"
        if record["key"].endswith("_multi"):
            whole[problem] = score
        elif record["key"].partition("steps")[0] in ("2", "3"):
            steps[problem].append(score)
    return {
        problem: (1.0 if score == 1 else 0.5) if all(step == 1 for step in steps[problem]) else 0.0
        for problem, score in whole.items()
    }
