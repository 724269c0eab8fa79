"""How our step's time grows with branches, rollouts, response length, prompt length and vocabulary.

    python -m benchmarks.growth

A tiny model with random weights that may not end a response, so that all have the full length and no two are alike.
The exponent is the slope of a straight line through log seconds against log size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.measure import interleave
from benchmarks.ours import Coin, Lengthened
from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.local import finish, local_handle
from copd.branches.signals import SampledToken, Signal
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.model.policy import Policy
from copd.model.tiny import tiny_config, tiny_processor
from copd.phases import mutual_opd
from copd.schedule import Batches
from copd.tasks.digits import Digits
from copd.topology import hub
from copd.types import Part, Task

REPETITIONS = 3


@dataclass(frozen=True)
class Work:
    """The size of a step; the axes change one number each."""

    branches: int = 1
    prompts: int = 4
    rollouts: int = 8
    response: int = 32
    prompt: int = 64
    vocabulary: int = 128


@dataclass(frozen=True)
class Curve:
    """Median seconds of a step at each size, and the exponent."""

    axis: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Slope of log seconds against log size."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


AXES: Mapping[str, Sequence[int]] = {
    "branches": (1, 2, 3, 4, 6),
    "rollouts": (4, 8, 16, 32),
    "response": (8, 16, 32, 64),
    "prompt": (48, 96, 192, 384),
    "vocabulary": (128, 1_024, 8_192, 32_768),
}
TOLD = {
    "branches": "K branches: a step of mutual OPD in a hub",
    "branches_rollouts": "the same against the rollouts of all its parts",
    "rollouts": "rollouts per prompt: a GRPO step",
    "response": "response length: a GRPO step",
    "prompt": "prompt length: a GRPO step",
    "vocabulary": "vocabulary: a GRPO step",
}


class Unlogged:
    """Looks on and keeps nothing."""

    meet_every, meet_after = 1, ()

    def may_begin(self, step: int) -> bool:
        return True

    def updated(self, branch: str, step: int, metrics: dict[str, float]) -> None: ...

    async def met(self, stretch: Any) -> None: ...


def make_policy(vocabulary: int) -> Policy:
    """Random weights over so many tokens, of which the tokenizer knows the first; the end may not be drawn."""
    processor = tiny_processor()
    config = tiny_config(processor)
    config.text_config.vocab_size = vocabulary
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return Policy(model, processor)


SAMPLED = SampledToken(partial(clamped_delta, bound=5.0))


def make_branch(
    base: Policy, name: str, index: int, tasks: Mapping[str, Task], work: Work, signal: Signal = SAMPLED
) -> Branch:
    """A branch on a copy of the base."""
    policy = base.clone()
    policy.banned_V[policy.end_ids] = True
    return Branch(
        name,
        index,
        policy,
        tasks,
        SamplingSettings(0, work.response, 1.0),
        capability=name,
        learner=Learner(policy, learning_rate=1e-4),
        settings=ObjectiveSettings(signal),
        grader=Coin(),  # type: ignore[arg-type]
    )


def step_of(work: Work) -> Callable[[int], object]:
    """One step: GRPO for a single branch, mutual OPD with native GRPO for several, all joined to the first."""
    names = [f"capability{k}" for k in range(work.branches)]
    tasks = {name: Lengthened(Digits("text", seed=k), work.prompt) for k, name in enumerate(names)}
    base = make_policy(work.vocabulary)
    branches = [make_branch(base, name, k, tasks, work) for k, name in enumerate(names)]
    if work.branches == 1:
        (only,) = branches
        return lambda n: only.update([Part("native", only.collect(only.capability, n, work.prompts, work.rollouts))])
    handles = {branch.name: local_handle(branch) for branch in branches}
    batches = Batches(work.prompts, work.rollouts, work.prompts, work.rollouts)
    edges = hub(names, 1.0)

    # Every step is the run's first: the teachers' version must be the step's number.
    def step(number: int) -> None:
        for branch in branches:
            branch.version = number
        finish(mutual_opd(handles, edges, number, batches, Unlogged(), version=number))

    return step


def measure(axis: str, sizes: Sequence[int], base: Work = Work()) -> Curve:
    """Seconds of a step at each size, in turns."""
    steps = {str(size): step_of(replace(base, **{axis: size})) for size in sizes}
    times = interleave(steps, REPETITIONS)
    return Curve(axis, tuple(sizes), tuple(statistics.median(times[name]) for name in steps))


def measure_all(axes: Mapping[str, Sequence[int]], base: Work = Work()) -> list[Curve]:
    """All curves; that of the branches also against the rollouts that they draw: K native parts, 2 (K - 1) taught."""
    curves = []
    for axis, sizes in axes.items():
        curves.append(curve := measure(axis, sizes, base))
        if axis == "branches":
            rollouts = tuple((3 * k - 2) * base.prompts * base.rollouts for k in sizes)
            curves.append(Curve("branches_rollouts", rollouts, curve.seconds))
    return curves


def table(curves: Sequence[Curve], threads: int) -> str:
    """The curves as Markdown."""
    lines = ["| a step's time against | threads | size: seconds | exponent |", "|---|---|---|---|"]
    for curve in curves:
        points = ", ".join(f"{size:,}: {value:.3g}" for size, value in zip(curve.sizes, curve.seconds, strict=True))
        lines.append(f"| {TOLD[curve.axis]} | {threads} | {points} | {curve.exponent:.2f} |")
    return "\n".join(lines)


def as_json(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The curves with their exponents."""
    return [{**asdict(curve), "exponent": curve.exponent} for curve in curves]


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(table(measure_all(AXES), 2))
