"""The jobs of the table: each measures what we do in turns with what a user would do instead, and gives its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from benchmarks import theirs
from benchmarks.measure import Row, Times, interleave
from benchmarks.memory import PATHS
from benchmarks.ours import (
    Coin,
    Lengthened,
    Size,
    digits,
    grpo_step,
    make_branches,
    opd_step,
    problems_of,
    without_shortcuts,
)
from benchmarks.responses import written
from copd.branches.actor import generator_of
from copd.branches.branch import Branch
from copd.model.policy import Policy

Side = Callable[[int], object]
KINDS = ("text", "image", "video")
GRPO_WITH = {"text": 3.0, "image": 5.0, "video": 5.0}
GRPO_WITHOUT = {"text": 2.0, "image": 3.0, "video": 3.0}
SAMPLING = {"text": 2.2, "image": 4.0, "video": 4.0}
LONG, OPD = 5.0, 5.0
VOCABULARY = 151_936
"""Qwen3-VL's."""
PLAIN = "every row alone"
"""The other side of what is not compared with another library."""
OF_BOUND = 0.8
"""Share of a ratio of token counts that must be reached."""


def both_ways(side: Side) -> dict[str, Side]:
    """A side with our shortcuts and without them."""

    def without(number: int) -> None:
        with without_shortcuts():
            side(number)

    return {"with": side, "without": without}


def rows_of(
    job: str, against: str, kind: str, times: Times, required: Mapping[str, float], note: str = ""
) -> list[Row]:
    """A row with and a row without shortcuts, of times with the sides "theirs", "with" and "without"."""
    threads = torch.get_num_threads()
    return [
        Row(job, against, kind, threads, way, times[way], times["theirs"], required.get(way), note=note)
        for way in ("with", "without")
        if way in times
    ]


def restoring(*branches: Branch) -> Callable[[], None]:
    """What brings the branches' weights back to where they are now, so that all steps do the same work."""
    kept = [(branch.policy, branch.policy.weights()) for branch in branches]

    def restore() -> None:
        for policy, weights in kept:
            policy.load_weights(weights)

    return restore


def told(metrics: Mapping[str, float], part: str) -> str:
    """What the last step was like."""
    names = ("reward", "groups_with_signal", "response_length", "truncated_rate")
    return ", ".join(f"{name} {metrics[f'{part}/{name}']:.2f}" for name in names)


def grpo(size: Size, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """A whole GRPO step against TRL's GRPOTrainer."""
    for kind in kinds:
        (branch,) = make_branches({kind: digits(kind)}, size.max_new_tokens)
        yield from _grpo("GRPO step", kind, branch, size, size.max_new_tokens, GRPO_WITH[kind], GRPO_WITHOUT[kind])


def long_grpo(size: Size, kinds: tuple[str, ...] = KINDS[1:]) -> Iterator[Row]:
    """The same with prompts ten times longer than responses; rewards are a coin's, see `Coin`."""
    for kind in kinds:
        task = Lengthened(digits(kind), 10 * size.short_tokens)
        (branch,) = make_branches({kind: task}, size.short_tokens, Coin())
        yield from _grpo("GRPO step, prompts 10x longer", kind, branch, size, size.short_tokens, LONG, None)


def _grpo(
    job: str, kind: str, branch: Branch, size: Size, tokens: int, required: float, bare: float | None
) -> Iterator[Row]:
    metrics: list[dict[str, float]] = []
    sides = both_ways(lambda number: metrics.append(grpo_step(branch, number, size)))
    trainer = theirs.grpo_trainer(branch, size, tokens)
    times = theirs.interleave_trainer(trainer, sides, restoring(branch))
    needed = {"with": required} if bare is None else {"with": required, "without": bare}
    yield from rows_of(job, "TRL GRPOTrainer", kind, times, needed, told(metrics[-1], "native"))


def opd(size: Size, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """An OPD step on the teacher's prompts against TRL's DistillationTrainer, whose objective is another."""
    for kind in kinds:
        peer = next(other for other in KINDS if other != kind)
        student, teacher = make_branches({peer: digits(peer), kind: digits(kind)}, size.max_new_tokens)
        metrics: list[dict[str, float]] = []

        def step(number: int, student: Branch = student, teacher: Branch = teacher, metrics: list = metrics) -> None:
            metrics.append(opd_step(student, teacher, number, size))

        trainer = theirs.distillation_trainer(student, teacher, size, size.max_new_tokens)
        times = theirs.interleave_trainer(trainer, both_ways(step), restoring(student))
        yield from rows_of(
            "OPD step, sampled token",
            "TRL DistillationTrainer (reverse KL over the vocabulary)",
            kind,
            times,
            {"with": OPD},
            told(metrics[-1], "opd"),
        )


def sampling(size: Size, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """Prompts to responses, the processor's work included, against transformers' generate."""
    for kind in kinds:
        task = digits(kind)
        (branch,) = make_branches({kind: task}, size.max_new_tokens)
        policy, model = branch.policy, theirs.ordinary(branch.policy)

        def sample(number: int, policy: Policy = policy, task=task, kind: str = kind) -> None:
            policy.sample(
                problems_of(task, number, size),
                rollouts_per_prompt=size.rollouts,
                generator=generator_of(0, "benchmark", kind, number),
                max_new_tokens=size.max_new_tokens,
            )

        def generate(number: int, policy: Policy = policy, model=model, task=task) -> None:
            theirs.generate(model, policy, problems_of(task, number, size), size.rollouts, size.max_new_tokens)

        times = interleave({**both_ways(sample), "theirs": generate}, size.repetitions)
        job = f"sampling {size.rows} responses"
        yield from rows_of(job, "transformers generate", kind, times, {"with": SAMPLING[kind]})


def long_training(size: Size, kinds: tuple[str, ...] = KINDS[:2]) -> Iterator[Row]:
    """Forward and backward pass of the log-probs of one group, prompt ten times longer than its responses."""
    tokens = 2 * size.short_tokens
    for kind in kinds:
        task = Lengthened(digits(kind), 10 * tokens)
        (branch,) = make_branches({kind: task}, tokens)
        rollouts = written(branch.policy, problems_of(task, 0, size)[:1], size.rollouts, tokens)
        (prompt,) = branch.policy.encoder.lengths(rollouts.problems)

        def differentiate(number: int, policy: Policy, rollouts=rollouts) -> None:
            policy.logp(rollouts).sum().backward()
            policy.model.zero_grad(set_to_none=True)

        times = interleave(packed_and_plain(branch.policy, differentiate), size.repetitions)
        bound = size.rollouts * (prompt + tokens) / (prompt + size.rollouts * tokens)
        yield Row(
            f"forward and backward, {size.rollouts} rollouts, prompt 10x longer",
            PLAIN,
            kind,
            torch.get_num_threads(),
            "-",
            times["ours"],
            times["theirs"],
            OF_BOUND * bound,
            note=f"prompt {prompt}, response {tokens} tokens; bound {bound:.2f}",
        )


def scoring(size: Size) -> Iterator[Row]:
    """A teacher's scoring, prompts as long as responses: no two alike, then half of a group's responses duplicates."""
    tokens = size.max_new_tokens
    task = Lengthened(digits("text"), tokens)
    (branch,) = make_branches({"text": task}, tokens)
    problems = problems_of(task, 0, size)
    longest = max(branch.policy.encoder.lengths(problems))
    bound = size.rollouts * (longest + tokens) / (longest + size.rollouts * tokens)
    for distinct, required in ((size.rollouts, OF_BOUND * bound), (max(1, size.rollouts // 2), bound)):
        rollouts = written(branch.policy, problems, size.rollouts, tokens, distinct=distinct)

        def score(number: int, policy: Policy, rollouts=rollouts) -> None:
            policy.score(rollouts)

        times = interleave(packed_and_plain(branch.policy, score), size.repetitions)
        alike = "no duplicates" if distinct == size.rollouts else "half duplicates"
        yield Row(
            f"scoring, prompts as long as responses, {alike}",
            PLAIN,
            "text",
            torch.get_num_threads(),
            "with",
            times["ours"],
            times["theirs"],
            required,
            note=f"prompt {longest}, response {tokens} tokens; bound {bound:.2f}",
        )


def packed_and_plain(policy: Policy, work: Callable[[int, Policy], None]) -> dict[str, Side]:
    """The same work on packed prompts and responses, and on the plain path with every row computed."""
    plain = policy.clone()
    plain.shared_prefix = False

    def on_plain(number: int) -> None:
        with without_shortcuts():
            work(number, plain)

    return {"ours": partial(work, policy=policy), "theirs": on_plain}


def memory(size: Size, kinds: tuple[str, ...] = KINDS[:2]) -> Iterator[Row]:
    """Memory that a training step adds, each measured in processes of its own, prompts ten times longer."""
    threads = torch.get_num_threads()
    for kind in kinds:
        added: dict[str, list[float]] = {path: [] for path in PATHS}
        for _ in range(min(3, size.repetitions)):
            for path, values in added.items():
                values.append(peak_of(kind, path, threads, size))
        for path in PATHS[1:]:
            job = "memory a training step adds, prompts 10x longer"
            yield Row(job, PATHS_TOLD[path], kind, threads, "without", added["packed"], added[path], 1.0, "MiB")


PATHS_TOLD = {
    "plain": "our plain path, the same rows in a micro-batch",
    "plain_tokens": "our plain path, as many tokens in a micro-batch",
}


def peak_of(kind: str, path: str, threads: int, size: Size) -> float:
    """MiB that the step of `benchmarks.memory` adds, in a new process."""
    numbers = (threads, size.prompts, size.rollouts, size.short_tokens)
    return told_by("benchmarks.memory", kind, path, *numbers)["added_mib"]


def told_by(module: str, *arguments: object) -> dict[str, float]:
    """What a module prints last, run in a new process."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def vocabulary(size: Size, tokens: int = 512, entries: int = VOCABULARY) -> Iterator[Row]:
    """Log-probs over a large vocabulary in chunks against all logits at once, in processes of their own."""
    threads = torch.get_num_threads()
    chunks = [tokens // 16, tokens // 4, tokens]
    found: dict[int, list[dict[str, float]]] = {chunk: [] for chunk in chunks}
    for _ in range(min(3, size.repetitions)):
        for chunk, values in found.items():
            values.append(told_by("benchmarks.vocabulary", chunk, tokens, entries, threads))
    for chunk in chunks[:-1]:
        for what, unit in (("added_mib", "MiB"), ("seconds", "s")):
            ours, at_once = ([each[what] for each in found[n]] for n in (chunk, tokens))
            job = f"log-probs of {tokens:,} tokens over {entries:,}, {chunk} at a time"
            yield Row(job, "all logits at once", "-", threads, "-", ours, at_once, None, unit)


JOBS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "grpo": grpo,
    "long_grpo": long_grpo,
    "opd": opd,
    "sampling": sampling,
    "long_training": long_training,
    "scoring": scoring,
    "memory": memory,
    "vocabulary": vocabulary,
}
ONCE = ("memory", "vocabulary")
"""What does not depend on the number of threads, or hardly."""
NEEDS_TRL = ("grpo", "long_grpo", "opd")
