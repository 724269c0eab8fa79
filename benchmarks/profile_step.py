"""Where the time of a step goes, and how near its matrix products come to the machine's peak.

    python -m benchmarks.profile_step --capability image [--prompt-tokens 120] [--threads 2]

First the clock: seconds of each part of a GRPO step, mean over several. Then torch.profiler over one more step: the
share of matrix products, attention and all else in the time of the operators, and the GFLOP/s of the matrix products
against a measured product of two large matrices.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

import copd.model.builtin_sampler
import copd.model.policy
from benchmarks.measure import describe, environment, gemm_peak
from benchmarks.ours import Coin, Lengthened, Size, digits, grpo_step, make_branches, without_shortcuts
from copd.branches.branch import Branch
from copd.compute.encode import Encoder
from copd.compute.forward import Forward

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_convolution")
ATTENTION = ("scaled_dot_product", "flash_attention")
ORDER = ("render", "encode", "prefill", "decode", "grade", "forward", "backward", "optimizer", "all else")


class Clock:
    """Seconds by part, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = ["all else"]
        self._since = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time spent here belongs to `name`."""
        self._settle()
        self._inside.append(name)
        try:
            yield
        finally:
            self._settle()
            self._inside.pop()

    def _settle(self) -> None:
        now = time.perf_counter()
        self.seconds[self._inside[-1]] += now - self._since
        self._since = now


@contextmanager
def clocked(branch: Branch) -> Iterator[Clock]:
    """A clock on the parts of the branch's steps."""
    clock = Clock()
    parts = (
        (type(branch.asked.tasks[branch.capability]), "problem", "render"),
        (Encoder, "_recall", "encode"),
        (Forward, "start_shared", "prefill"),
        (copd.model.builtin_sampler, "decode", "decode"),
        (type(branch.grader), "grade", "grade"),
        (copd.model.policy.Policy, "token_stats", "forward"),
        (torch.Tensor, "backward", "backward"),
        (branch.learner.optimizer, "step", "optimizer"),
    )
    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, _timed(clock, part, getattr(owner, name))))
        yield clock


def _timed(clock: Clock, part: str, function: Any) -> Any:
    def timed(*arguments: Any, **named: Any) -> Any:
        with clock.part(part):
            return function(*arguments, **named)

    return timed


def by_clock(branch: Branch, size: Size) -> dict[str, float]:
    """Mean seconds of each part of a step; the first step is not counted."""
    grpo_step(branch, 0, size)
    with clocked(branch) as clock:
        for step in range(1, 1 + size.repetitions):
            grpo_step(branch, step, size)
        with clock.part("all else"):
            pass
    return {part: clock.seconds[part] / size.repetitions for part in ORDER}


def by_operator(work: Callable[[], object]) -> dict[str, float]:
    """Shares of the operators' own time in `work`, and the work and GFLOP/s of its matrix products."""
    with Operators() as operators:
        work()
    return operators.summary()


class Operators:
    """A profiler of the operators of what runs in it."""

    def __enter__(self) -> Operators:
        self._profiler = profile(activities=[ProfilerActivity.CPU], with_flops=True)
        self._profiler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profiler.__exit__(None, None, None)

    def summary(self) -> dict[str, float]:
        """What `by_operator` gives, once the block has ended."""
        averages = self._profiler.key_averages()
        events = [event for event in averages if event.key.startswith("aten::")]
        total = sum(event.self_cpu_time_total for event in events)
        multiplying = [event for event in events if event.key in PRODUCTS]
        attention = [event for event in events if any(name in event.key for name in ATTENTION)]
        busy = sum(event.self_cpu_time_total for event in multiplying)
        flops = sum(event.flops for event in multiplying)
        return {
            "operators_seconds": total / 1e6,
            "products_share": busy / total,
            "attention_share": sum(event.self_cpu_time_total for event in attention) / total,
            "products_gflop": flops / 1e9,
            "products_gflops": flops / busy / 1e3,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", choices=("text", "image", "video"), default="image")
    parser.add_argument("--prompt-tokens", type=int, help="lengthen the prompts to about this; rewards are a coin's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--without-shortcuts", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    size = Size(repetitions=asked.repetitions)
    task = (
        digits(asked.capability)
        if asked.prompt_tokens is None
        else Lengthened(digits(asked.capability), asked.prompt_tokens)
    )
    tokens = size.max_new_tokens if asked.prompt_tokens is None else size.short_tokens
    (branch,) = make_branches({asked.capability: task}, tokens, None if asked.prompt_tokens is None else Coin())
    peak = gemm_peak()
    with without_shortcuts() if asked.without_shortcuts else nullcontext():
        parts = by_clock(branch, size)
        found = by_operator(lambda: grpo_step(branch, 1 + size.repetitions, size))
    print(describe(environment()))
    print(f"\n| part of a GRPO step, {asked.capability}, {asked.threads} threads | seconds | share |\n|---|---|---|")
    total = sum(parts.values())
    for part, value in parts.items():
        print(f"| {part} | {value:.4f} | {value / total:.0%} |")
    print(f"| whole step | {total:.4f} | |\n")
    print(
        f"Of the operators' own time {found['products_share']:.0%} is matrix products, "
        f"{found['attention_share']:.0%} attention; matrix products run at {found['products_gflops']:.1f} "
        f"GFLOP/s, the peak measured here is {peak:.1f}."
    )


if __name__ == "__main__":
    main()
