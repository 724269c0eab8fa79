"""A policy that answers, has its answers graded, and inspects those of others. A branch is one that learns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from copd.branches.shortage import short_of_memory
from copd.maths.cut import WHOLE, Cut
from copd.model.pieces import token_pieces
from copd.model.policy import Policy
from copd.rewards.grading import Grader, Response
from copd.tasks.asked import Asked
from copd.types import Problem, Rollouts, Score, Split, Task


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are sampled: at most `max_new_tokens`, at `temperature`, from what `cut` leaves.

    The token that completes a string of `stop` is the last of a response. A native batch is refilled at most
    `refill` times. All randomness comes from `seed`.
    """

    seed: int
    max_new_tokens: int
    temperature: float
    cut: Cut = WHOLE
    stop: tuple[str, ...] = ()
    refill: int = 0


class Actor:
    """A policy that answers the problems of several tasks, has its responses graded, and scores those of others."""

    capability = ""
    """The task that a branch learns; an actor that is no branch learns none."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        tasks: Mapping[str, Task],
        sampling: SamplingSettings,
        grader: Grader | None = None,
        asked: Asked | None = None,
    ) -> None:
        """`grader`: by default one without user verifiers, whose processes end with this process.

        `asked` gives the tasks' problems, and models may share it; by default the actor has its own.
        """
        self.name = name
        self.policy = policy
        self.sampling = sampling
        self.grader = grader or Grader()
        self.asked = asked or Asked(tasks)
        self.version = 0
        self.home = policy.device
        """The device on which the actor computes. While it waits for its turn, it may be on another."""

    def move(self, device: torch.device | str) -> None:
        """Move the weights, and everything else that computing needs, to a device."""
        self.policy.to(device)

    def answer(
        self, problems: Sequence[Problem], rollouts_per_prompt: int, generator: torch.Generator | None
    ) -> Rollouts:
        """Sample responses and grade them; greedy without a generator."""
        return self.grade(self.sample(problems, rollouts_per_prompt, generator))

    def sample(
        self, problems: Sequence[Problem], rollouts_per_prompt: int, generator: torch.Generator | None
    ) -> Rollouts:
        """Sample responses as the run does, without grading; greedy without a generator.

        Raises OutOfMemoryError if memory does not suffice.
        """
        most = len(problems) * rollouts_per_prompt * self.sampling.max_new_tokens
        with short_of_memory(self.name, "sampling", most, self.policy):
            return self.policy.sample(
                problems,
                rollouts_per_prompt=rollouts_per_prompt,
                generator=generator,
                max_new_tokens=self.sampling.max_new_tokens,
                temperature=self.sampling.temperature,
                cut=self.sampling.cut,
                stop=self.sampling.stop,
            )

    def grade(self, rollouts: Rollouts) -> Rollouts:
        """This policy's responses with their rewards and the policy's current version. Rank 0 grades for all ranks."""
        rows = zip(rollouts.tokens_NT, rollouts.mask_NT, strict=True)
        spoken_N = [tokens_T[mask_T] for tokens_T, mask_T in rows]
        texts, finished = self.texts(rollouts), rollouts.finished_N.tolist()
        responses = [Response(*each) for each in zip(texts, spoken_N, finished, strict=True)]
        asked = [rollouts.problems[p] for p in rollouts.prompt_of_N.tolist()]
        grades = self.policy.ranks.first(lambda: self.grader.grade(asked, responses))
        return replace(
            rollouts,
            reward_N=torch.tensor(grades.rewards),
            correct_N=torch.tensor(grades.correct),
            grader_failures=grades.failures,
            version=self.version,
        )

    def answer_first(self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool) -> Rollouts:
        """Graded responses to the first problems of a task, the same at every call; not counted in the ledger.

        All models sample with the same random numbers, so that luck does not make a difference between them.
        """
        problems = self.asked.first(split, task, count)
        generator = None if greedy else generator_of(self.sampling.seed, "validation", task, 0)
        return self.answer(problems, rollouts_per_prompt, generator)

    def inspect(self, rollouts: Rollouts, k: int = 0, ids_NTK: Tensor | None = None) -> Score:
        """This policy's current log-probs of any model's responses; not counted in the ledger.

        Raises OutOfMemoryError if memory does not suffice.
        """
        with short_of_memory(self.name, "scoring", int(rollouts.mask_NT.sum()), self.policy):
            return self.policy.score(rollouts, k=k, ids_NTK=ids_NTK, version=self.version)

    def texts(self, rollouts: Rollouts) -> list[str]:
        """The responses as text, end tokens left out. [N]."""
        return self.policy.texts(rollouts)

    def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        """One response token by token, the end token included."""
        ids = rollouts.tokens_NT[row][rollouts.mask_NT[row]].tolist()
        return token_pieces(self.policy.encoder.family.tokenizer, ids)

    def save(self, folder: Path, card: str, export_dtype: str = "float32") -> None:
        """Write the model with processor, vocabulary mask and model card, loadable by plain transformers.

        Memory that torch keeps of a card for further steps goes back: the run evaluates other models there next.
        """
        self.policy.ranks.first(lambda: self.policy.save(folder, card, export_dtype))
        torch.cuda.empty_cache()


def generator_of(seed: int, who: str, task: str, step: int) -> torch.Generator:
    """The generator of one batch, a function of (seed, who samples, task, step), so that resuming needs no state."""
    digest = hashlib.sha256(f"{seed}/{who}/{task}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
