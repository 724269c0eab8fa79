"""Policy, tasks, grading and learner, put together: what a handle drives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from copd.maths.advantages import group_advantages, has_signal
from copd.model.export import save_policy
from copd.model.learner import Learner
from copd.model.parts import DistillObjective, GrpoObjective, Objective
from copd.model.pieces import token_pieces
from copd.model.policy import Policy
from copd.rewards.verifiers import reward
from copd.types import Part, Problem, Rollouts, Score, Split, Task

VISIT_STRIDE = 10_000_000
"""Visits to a peer's field read its problems from (1 + the visitor's index) times this on, apart from its own."""


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn: at most `max_new_tokens`, at `temperature`; everything from `seed`."""

    seed: int
    max_new_tokens: int
    temperature: float


@dataclass
class Counts:
    """The ledger of one branch since the start of the run: rollouts, tokens, and seconds by activity."""

    rollouts: int = 0
    tokens_generated: int = 0
    tokens_scored: int = 0
    tokens_trained: int = 0
    collect_seconds: float = 0.0
    score_seconds: float = 0.0
    update_seconds: float = 0.0


class Actor:
    """A policy that answers the problems of several tasks, is graded, and scores responses of others."""

    def __init__(
        self, name: str, index: int, policy: Policy, tasks: Mapping[str, Task], sampling: SamplingSettings
    ) -> None:
        self.name = name
        self.index = index
        self.policy = policy
        self.tasks = tasks
        self.sampling = sampling
        self.version = 0

    def answer(
        self, problems: Sequence[Problem], rollouts_per_prompt: int, generator: torch.Generator | None
    ) -> Rollouts:
        """Sample and grade; greedy without a generator."""
        rollouts = self.policy.sample(
            problems,
            rollouts_per_prompt=rollouts_per_prompt,
            generator=generator,
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
        )
        texts, finished = self.policy.texts(rollouts), rollouts.finished_N.tolist()
        answered = [problems[p] for p in rollouts.prompt_of_N.tolist()]
        rewards = [reward(p, text, finished=end) for p, text, end in zip(answered, texts, finished, strict=True)]
        return replace(rollouts, reward_N=torch.tensor(rewards), version=self.version)

    def validate(self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool) -> Rollouts:
        """Graded answers to the first problems of a task, the same at every call; not counted in the ledger.

        All models draw with the same random numbers, so that differences between them are not those of luck.
        """
        problems = [self.tasks[task].problem(split, i) for i in range(count)]
        generator = None if greedy else stream(self.sampling.seed, "validation", task, 0)
        return self.answer(problems, rollouts_per_prompt, generator)

    def inspect(self, rollouts: Rollouts, k: int = 0, ids_NTK: Tensor | None = None) -> Score:
        """This policy's log-probs of anybody's responses, as of its present version; not counted in the ledger."""
        return self.policy.score(rollouts, k=k, ids_NTK=ids_NTK, version=self.version)

    def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        """One response token by token, the end token included."""
        ids = rollouts.tokens_NT[row][rollouts.mask_NT[row]].tolist()
        return token_pieces(self.policy.processor.tokenizer, ids)

    def save(self, folder: Path, card: str) -> None:
        """Write the model with processor, vocabulary mask and model card, loadable by plain transformers."""
        save_policy(self.policy, folder, card)


class Branch(Actor):
    """An actor that learns: GRPO on its own field, OPD from its peers."""

    def __init__(
        self,
        name: str,
        index: int,
        policy: Policy,
        tasks: Mapping[str, Task],
        sampling: SamplingSettings,
        *,
        field: str,
        learner: Learner,
        clamp: float,
    ) -> None:
        super().__init__(name, index, policy, tasks, sampling)
        self.field = field
        self.learner = learner
        self.clamp = clamp
        self.counts = Counts()

    def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Rollouts:
        """Sample and grade training problems of a task: its own field in order, a peer's from a range of its own."""
        started = time.perf_counter()
        first = step * prompts + (0 if task == self.field else VISIT_STRIDE * (1 + self.index))
        problems = [self.tasks[task].problem(Split.TRAIN, first + i) for i in range(prompts)]
        generator = stream(self.sampling.seed, self.name, task, step)
        rollouts = self.answer(problems, rollouts_per_prompt, generator)
        self.counts.rollouts += len(rollouts.tokens_NT)
        self.counts.tokens_generated += int(rollouts.mask_NT.sum())
        self.counts.collect_seconds += time.perf_counter() - started
        return rollouts

    def score(self, rollouts: Rollouts) -> Score:
        """Teach: log-probs of a peer's responses under the weights as they are now."""
        started = time.perf_counter()
        score = self.inspect(rollouts)
        self.counts.tokens_scored += int(rollouts.mask_NT.sum())
        self.counts.score_seconds += time.perf_counter() - started
        return score

    def update(self, parts: Sequence[Part]) -> dict[str, float]:
        """One optimizer step from graded rollouts and teachers' scores; its metrics.

        Raises ValueError for a teacher's score of another version than this branch's: a stale teacher.
        """
        started = time.perf_counter()
        report = self.learner.step([self._objective(part) for part in parts])
        self.version += 1
        seconds = time.perf_counter() - started
        self.counts.tokens_trained += report.tokens_trained
        self.counts.update_seconds += seconds
        described = [describe(part) for part in parts]
        return {
            **{name: value for metrics in described for name, value in metrics.items()},
            **report.metrics,
            "skipped": float(report.skipped),
            "tokens_per_second": report.tokens_trained / seconds,
        }

    def _objective(self, part: Part) -> Objective:
        if part.teacher is None:
            assert part.rollouts.reward_N is not None
            advantage_N = group_advantages(part.rollouts.reward_N, part.rollouts.prompt_of_N)
            return GrpoObjective(part.name, part.rollouts, part.weight, advantage_N)
        if part.teacher.version != self.version:
            raise ValueError(
                f"branch {self.name}: {part.name} was scored at version {part.teacher.version}, now is {self.version}"
            )
        return DistillObjective(part.name, part.rollouts, part.weight, part.teacher.logp_NT, self.clamp)

    def load_state(self, tensors: dict[str, Tensor], version: int) -> None:
        """Restore `Learner.state` as of `version` updates: with the step, everything a resumed branch needs."""
        self.learner.load_state(tensors)
        self.version = version

    def weights(self) -> dict[str, Tensor]:
        """The trained parameters by name on the CPU, tied ones once."""
        return {name: p.detach().cpu().clone() for name, p in self.learner.named_parameters.items()}


def stream(seed: int, who: str, task: str, step: int) -> torch.Generator:
    """The generator of one draw: a function of (seed, who samples, task, step), so that resuming needs no state."""
    digest = hashlib.sha256(f"{seed}/{who}/{task}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def describe(part: Part) -> dict[str, float]:
    """What the rollouts of a part look like: reward, groups with signal, response length, share cut by the limit."""
    rollouts = part.rollouts
    assert rollouts.reward_N is not None
    groups = len(rollouts.problems)
    signal_N = has_signal(rollouts.reward_N, rollouts.prompt_of_N)
    return {
        f"{part.name}/reward": float(rollouts.reward_N.mean()),
        f"{part.name}/groups_with_signal": len(rollouts.prompt_of_N[signal_N].unique()) / groups,
        f"{part.name}/response_length": float(rollouts.mask_NT.sum(-1).float().mean()),
        f"{part.name}/cut_rate": 1 - float(rollouts.finished_N.float().mean()),
    }
