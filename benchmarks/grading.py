"""Verifications per second of the `math` verifier: `python benchmarks/grading.py [WORKERS [PROBLEMS]]`.

Invented answers of the kinds that mathematics problems have, 8 responses to a problem, half of them right, some of
those in another spelling than the reference. Four numbers: batches as a run grades them (equal answers of a group are
verified once, what kinds decide without a process), of all kinds, of plain numbers alone and of all but
these; and math-verify alone, one call per problem. Each is also told as a multiple of the floor of 500 per second.
Processes are warm: they have graded another batch before.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

import torch

from copd.rewards.grading import Grader, Response
from copd.rewards.mathematics import equivalent
from copd.rewards.pool import KillablePool
from copd.types import Problem

GROUP = 8
FLOOR = 500
"""Verifications per second that two processes must reach."""
KINDS: dict[str, tuple[float, Callable[[int, int, int], tuple[str, str]]]] = {
    "integer": (0.60, lambda a, b, c: (f"{a * b}", f"{a * b}.0")),
    "fraction": (0.15, lambda a, b, c: (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}")),
    "root": (0.06, lambda a, b, c: (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}")),
    "pi": (0.05, lambda a, b, c: (f"\\frac{{{a}\\pi}}{{{b}}}", f"{a}\\pi/{b}")),
    "polynomial": (0.04, lambda a, b, c: (f"{a}x^2+{b}x+{c}", f"{c}+{b}x+{a}x^2")),
    "point": (0.04, lambda a, b, c: (f"({a},{b})", f"\\left({a}, {b}\\right)")),
    "interval": (0.03, lambda a, b, c: (f"[{a},{a + b})", f"\\left[{a}, {a + b}\\right)")),
    "words": (0.03, lambda a, b, c: (f"\\text{{side {a}}}", f"\\text{{ side {a}}}")),
}
"""Share of the problems, and from three numbers an answer in two spellings."""


def groups(count: int, draw: random.Random, kinds: Sequence[str]) -> list[tuple[str, list[str]]]:
    """References, each with the answers of its group."""
    found = []
    for kind in draw.choices(kinds, [KINDS[kind][0] for kind in kinds], k=count):
        near = [[draw.randint(2, 40) for _ in range(3)] for _ in range(4)]
        write = KINDS[kind][1]
        reference, otherwise = write(*near[0])
        wrong = [write(*numbers)[0] for numbers in near[1:]]
        answers = draw.choices([reference, otherwise, *wrong], [0.35, 0.15, 0.25, 0.15, 0.1], k=GROUP)
        found.append((reference, answers))
    return found


def graded_per_second(grader: Grader, batch: Sequence[tuple[str, list[str]]]) -> float:
    problems = [Problem(f"{i}", "math", "", reference, "math") for i, (reference, answers) in enumerate(batch)]
    rows = [(problem, answer) for problem, (_, answers) in zip(problems, batch, strict=True) for answer in answers]
    responses = [Response(f"so \\boxed{{{answer}}}", torch.zeros(0), True) for _, answer in rows]
    started = time.perf_counter()
    grades = grader.grade([problem for problem, _ in rows], responses)
    assert not grades.failures
    return len(rows) / (time.perf_counter() - started)


def told(rate: float, what: str) -> str:
    return f"{rate:8.0f} {what}: {rate / FLOOR:.1f} x the floor of {FLOOR}"


def main(workers: int = 2, problems: int = 128) -> None:
    draw = random.Random(0)
    numbers = ["integer", "fraction"]
    symbolic = [kind for kind in KINDS if kind not in numbers]
    chosen = {"all kinds of answer": list(KINDS), "plain numbers": numbers, "no plain numbers": symbolic}
    with Grader(workers=workers) as grader:
        for name, kinds in chosen.items():
            graded_per_second(grader, groups(problems, draw, kinds))
            rate = graded_per_second(grader, groups(problems, draw, kinds))
            print(told(rate, f"responses graded per second, {name}, batches of {problems} x {GROUP}"))
    pairs = [(answers[0], reference) for reference, answers in groups(problems * GROUP, draw, list(KINDS))]
    pool = KillablePool(workers, deadline_seconds=10, memory_gib=4)
    try:
        for warm in (pairs[::2], pairs[1::2]):
            started = time.perf_counter()
            pool.run([(equivalent, *pair) for pair in warm])
            rate = len(warm) / (time.perf_counter() - started)
    finally:
        pool.close()
    print(told(rate, f"pairs verified per second by math-verify alone, all kinds of answer, {workers} processes"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
