"""Whether it pays to prepare the next step's problems in a thread while the model works: it does not here.

    python -m benchmarks.ahead [--threads 1 2]

A GRPO step renders and encodes its own problems, or finds them rendered and encoded by another thread during the step
before. Prints the median seconds of both, in turns, and their ratio.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.measure import WARMUPS, Times, describe, environment, markdown, seconds, spread
from benchmarks.ours import KINDS, Size, digits, grpo_step, make_branches
from copd.branches.branch import Branch
from copd.compute.family import Encoded, family_of
from copd.tasks.asked import Asked
from copd.types import Address, Problem, Split

HEADER = ("kind", "threads", "prepared in the step", "prepared by a thread", "ratio")


class Ready:
    """A task whose next problems lie ready."""

    def __init__(self, task: Any, problems: list[Problem], first: int) -> None:
        self.name = task.name
        self._problems, self._first = problems, first

    def problem(self, split: Split, index: int) -> Problem:
        return self._problems[index - self._first]


class Preparing:
    """Problems of the steps of a branch, rendered and encoded by a thread with a processor of its own."""

    def __init__(self, branch: Branch, size: Size) -> None:
        self._asked, self._capability, self._size = Asked(branch.asked.tasks), branch.capability, size
        self._family = family_of(branch.policy.model, copy.deepcopy(branch.policy.processor))
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def submit(self, step: int) -> Future[tuple[list[Problem], list[Encoded]]]:
        return self._thread.submit(self._prepare, step)

    def finish(self) -> None:
        """Wait until all that was submitted lies ready."""
        self._thread.submit(int).result()

    def _prepare(self, step: int) -> tuple[list[Problem], list[Encoded]]:
        places = range(step * self._size.prompts, (step + 1) * self._size.prompts)
        problems = [self._asked.at(Address(self._capability, Split.TRAIN, place)) for place in places]
        return problems, self._family.encode(problems)


def measure(kind: str, size: Size) -> Times:
    """Seconds of steps that prepare their own problems, and of steps that find them ready and have the next made."""
    (branch,) = make_branches({kind: digits(kind)}, size.max_new_tokens)
    tasks, weights = branch.asked.tasks, branch.policy.weights()
    preparing = Preparing(branch, size)
    times: Times = {"alone": [], "ahead": []}
    for step in range(WARMUPS + size.repetitions):
        ready = preparing.submit(step)

        def ahead(step: int = step, ready: Future = ready) -> None:
            problems, encoded = ready.result()
            preparing.submit(step + 1)
            branch.policy.encoder._remembered.update(zip(problems, encoded, strict=True))
            branch.asked = Asked({kind: Ready(tasks[kind], problems, step * size.prompts)})
            grpo_step(branch, step, size)

        def alone(step: int = step) -> None:
            branch.asked = Asked(tasks)
            grpo_step(branch, step, size)

        sides = {"alone": alone, "ahead": ahead}
        for name in sides if step % 2 else reversed(sides):
            preparing.finish()
            taken = seconds(sides[name])
            branch.policy.load_weights(weights)
            if step >= WARMUPS:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=40)
    asked = parser.parse_args()
    lines = []
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for kind in KINDS:
            times = measure(kind, Size(repetitions=asked.repetitions))
            sides = (spread(times[name], "s") for name in ("alone", "ahead"))
            ratio = statistics.median(times["alone"]) / statistics.median(times["ahead"])
            lines.append((kind, str(threads), *sides, f"{ratio:.2f}"))
    print(describe(environment()))
    print(markdown(HEADER, lines))


if __name__ == "__main__":
    main()
