"""A branch: policy, tasks, grader and learner put together. A handle calls it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from copd.branches.actor import Actor, SamplingSettings, generator_of
from copd.branches.described import describe
from copd.branches.kept import KeptBatch, as_tensors, from_tensors
from copd.branches.refilled import refilled, to_learn_on
from copd.branches.settings import ObjectiveSettings
from copd.branches.shortage import short_of_memory
from copd.branches.state import read_shards, read_state, write_shards, write_state
from copd.compute.batching import take_rows
from copd.errors import CheckpointError, NonFiniteError
from copd.maths.advantages import group_advantages
from copd.model.learner import Learner, StepReport
from copd.model.objectives import (
    AnchoredGrpoObjective,
    GrpoObjective,
    Objective,
    with_effective_share,
)
from copd.model.parity import settled_path
from copd.model.policy import Policy
from copd.model.stored import StoredTensors, write_folder
from copd.rewards.grading import Grader
from copd.tasks.asked import Asked
from copd.types import Address, Part, Rollouts, Score, SettledPath, Split, StateFile, Task

PART_NORMS_EVERY = 4
"""The norms of the gradients of a branch's parts are logged in every so many updates."""
VISIT_STRIDE = 10_000_000
"""A visitor to a peer's capability reads problems from (1 + the visitor's index) times this number on."""


@dataclass(frozen=True)
class HeldModel:
    """The model that a branch teaches with, and the version of its weights."""

    policy: Policy
    version: int


@dataclass
class Counts:
    """The ledger of one branch since the start of the run: rollouts, tokens, and seconds by activity.

    `tokens_scored` counts peers' responses that the branch scored as a teacher, and its own whose likeliest tokens it
    sent to a teacher or that its reference scored, each once a batch. The seconds of the reference's scoring belong to
    the update. `tokens_trained` counts each token once per iteration.
    """

    rollouts: int = 0
    tokens_generated: int = 0
    tokens_scored: int = 0
    tokens_trained: int = 0
    collect_seconds: float = 0.0
    score_seconds: float = 0.0
    update_seconds: float = 0.0


class Branch(Actor):
    """An actor that learns: GRPO on its own capability, OPD from its peers."""

    def __init__(
        self,
        name: str,
        index: int,
        policy: Policy,
        tasks: Mapping[str, Task],
        sampling: SamplingSettings,
        *,
        capability: str,
        learner: Learner,
        settings: ObjectiveSettings,
        keep: int = 0,
        grader: Grader | None = None,
        asked: Asked | None = None,
    ) -> None:
        """`keep`: how many of the last native batches it keeps, to be replayed."""
        super().__init__(name, policy, tasks, sampling, grader, asked)
        self.index = index
        self.capability = capability
        self.learner = learner
        self.settings = settings
        self.ledger = Counts()
        self._held: HeldModel | None = None
        self._batches: deque[KeptBatch] = deque(maxlen=keep)

    def move(self, device: torch.device | str) -> None:
        super().move(device)
        self.learner.to(device)
        if self._held:
            self._held.policy.to(device)

    def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int, *, visit: bool = False) -> Rollouts:
        """Sample and grade responses to training problems.

        A visit is to a teacher's problems: each branch has its own range of them. A branch that visits its own
        capability answers others than its native ones, by other random numbers. A native batch may be refilled: its
        problems are a function of the step and of the number of the try.
        """
        started = time.perf_counter()
        visit = visit or task != self.capability
        tries = 1 if visit else 1 + self.sampling.refill
        first = step * tries * prompts + (VISIT_STRIDE * (1 + self.index) if visit else 0)
        draws = f"{task} (visit)" if visit and task == self.capability else task

        def sample(place: int) -> Rollouts:
            begin = first + place * prompts
            problems = [self.asked.at(Address(task, Split.TRAIN, begin + i)) for i in range(prompts)]
            again = f" (refill {place})" if place else ""
            generator = generator_of(self.sampling.seed, self.name, draws + again, step)
            return self.answer(problems, rollouts_per_prompt, generator)

        mask_truncated = self.settings.mask_truncated
        rollouts = refilled(sample, prompts, tries, mask_truncated=mask_truncated)
        if visit:
            with short_of_memory(self.name, "scoring", int(rollouts.mask_NT.sum()), self.policy):
                rollouts = self.settings.signal.asked(self.policy, rollouts)
            self.ledger.tokens_scored += 0 if rollouts.likeliest_NTK is None else int(rollouts.mask_NT.sum())
        self.ledger.rollouts += len(rollouts.tokens_NT)
        self.ledger.tokens_generated += int(rollouts.mask_NT.sum())
        self.ledger.collect_seconds += time.perf_counter() - started
        if not visit and self._batches.maxlen:
            self._batches.append(KeptBatch.of(to_learn_on(rollouts, mask_truncated=mask_truncated)))
        return rollouts

    def replay(self, place: int) -> Rollouts:
        """The batch at `place` among the native ones that it kept, 0 the oldest, as if it had been sampled now.

        Raises CheckpointError if it kept fewer.
        """
        if place >= len(self._batches):
            raise CheckpointError(
                f"branch {self.name}: has kept {len(self._batches)} batches of its RLVR, opd.replay asks for more"
            )
        batch = self._batches[place]
        return batch.replayed(self.asked, self.capability, self.sampling.temperature, self.version)

    def score(self, rollouts: Rollouts) -> Score:
        """Teach: log-probs of responses under the current weights, or under those that are held."""
        started = time.perf_counter()
        teacher = self._held or HeldModel(self.policy, self.version)
        with short_of_memory(self.name, "scoring", int(rollouts.mask_NT.sum()), teacher.policy):
            score = self.settings.signal.score(teacher.policy, rollouts, teacher.version)
        self.ledger.tokens_scored += int(rollouts.mask_NT.sum())
        self.ledger.score_seconds += time.perf_counter() - started
        return score

    def hold(self) -> None:
        """From now on, teach with the weights of now: a copy of the model keeps them."""
        self._held = HeldModel(self.policy.clone(), self.version)

    def release(self) -> None:
        """Teach with the current weights again."""
        self._held = None

    def update(self, parts: Sequence[Part]) -> dict[str, float]:
        """Make the optimizer steps over one batch of graded rollouts and teachers' scores; return the metrics.

        The version goes up by one, however many iterations the learner makes.

        Raises ValueError for own responses of an earlier version of the weights, and for a teacher's responses or
        score of another version than the part demands. Raises NonFiniteError naming the branch after several bad steps
        in a row, and OutOfMemoryError if memory does not suffice.
        """
        started = time.perf_counter()
        tokens = sum(int(part.rollouts.mask_NT.sum()) for part in parts)
        try:
            with short_of_memory(self.name, "training", tokens, self.policy):
                objectives = [self._objective(part) for part in parts]
                report = self._step(objectives, taught=any(part.teacher is not None for part in parts))
        except NonFiniteError as error:
            raise NonFiniteError(f"branch {self.name}: {error}") from error
        self.version += 1
        seconds = time.perf_counter() - started
        self.ledger.tokens_trained += report.tokens_trained
        self.ledger.update_seconds += seconds
        apart = {f"{part.name}/logp_mismatch" for part in parts if part.by_teacher or part.rollouts.cut}
        described = [describe(part, each.rollouts) for part, each in zip(parts, objectives, strict=True)]
        return {
            **{name: value for metrics in described for name, value in metrics.items()},
            **{name: value for name, value in with_effective_share(report.metrics).items() if name not in apart},
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "skipped": float(report.skipped),
            "tokens_per_second": report.tokens_trained / seconds,
        }

    def native_gradients(
        self, steps: range, prompts: int, rollouts_per_prompt: int
    ) -> tuple[list[Tensor], list[float]]:
        """Gradients of the native batches of these steps, all at the current weights: no update is made.

        Returns their sum by parameter, on the CPU, and the squared norm of each.
        """
        totals: list[Tensor] = []
        squares = []
        for step in steps:
            rollouts = self.collect(self.capability, step, prompts, rollouts_per_prompt)
            gradients = [each.cpu() for each in self.learner.gradient(self._native(Part("native", rollouts)))]
            squares.append(math.fsum(float(gradient.double().square().sum()) for gradient in gradients))
            if totals:
                torch._foreach_add_(totals, gradients)
            else:
                totals = gradients
        return totals, squares

    def _step(self, objectives: Sequence[Objective], *, taught: bool) -> StepReport:
        settings = self.settings
        learning_rate = (settings.opd_learning_rate if taught else None) or self.learner.learning_rate
        return self.learner.step(
            objectives,
            learning_rate=learning_rate * settings.rate(self.version),
            iterations=settings.opd_iterations if taught else None,
            part_norms=self.version % PART_NORMS_EVERY == 0,
        )

    def _objective(self, part: Part) -> Objective:
        due = part.teacher_version if part.by_teacher else self.version
        if part.rollouts.version != due:
            raise ValueError(
                f"branch {self.name}: {part.name} was sampled at version {part.rollouts.version}, due is {due}"
            )
        if part.teacher is None:
            return self._native(part)
        if part.teacher.version != part.teacher_version:
            raise ValueError(
                f"branch {self.name}: {part.name} was scored at version {part.teacher.version}, "
                f"due is {part.teacher_version}"
            )
        return self.settings.signal.objective(part, part.teacher)

    def _native(self, part: Part) -> Objective:
        batch = to_learn_on(part.rollouts, mask_truncated=self.settings.mask_truncated)
        rows_M = (batch.finished_N | (not self.settings.mask_truncated)).nonzero()[:, 0]
        rollouts = take_rows(batch, rows_M)
        assert rollouts.reward_N is not None
        advantage_M = group_advantages(
            rollouts.reward_N, rollouts.prompt_of_N, normalize_std=self.settings.normalize_std
        )
        reference = self.settings.reference
        if reference is None:
            return self.settings.corrected(GrpoObjective(part.name, rollouts, part.weight, advantage_M))
        logp_MT = reference.policy.score(batch).logp_NT[rows_M]
        self.ledger.tokens_scored += int(batch.mask_NT.sum())
        anchored = AnchoredGrpoObjective(
            part.name, rollouts, part.weight, advantage_M, logp_MT, reference.kl_coefficient
        )
        return self.settings.corrected(anchored)

    def state(self) -> dict[str, Tensor]:
        """The state of the learner, the version, what is held and kept. A resumed branch needs these and the step."""
        held = {f"held/{name}": tensor for name, tensor in self._held.policy.weights().items()} if self._held else {}
        versions = {"held_version": torch.tensor(self._held.version)} if self._held else {}
        return {
            **self.learner.state(),
            "version": torch.tensor(self.version),
            **held,
            **versions,
            **as_tensors(self._batches),
        }

    def counts(self) -> dict[str, float]:
        """The branch's ledger since the start of the run."""
        return asdict(self.ledger)

    def load_state(self, tensors: dict[str, Tensor], counts: Mapping[str, float]) -> None:
        """Restore the results of `state` and `counts`. Raises CheckpointError naming a missing or unfit tensor."""
        if "version" not in tensors:
            raise CheckpointError("tensor 'version' is missing")
        self.learner.load_state(tensors)
        self.version = int(tensors["version"])
        self._held = None
        if "held_version" in tensors:
            self._held = HeldModel(self.policy.clone(), int(tensors["held_version"]))
            prefix = "held/"
            self._held.policy.load_weights(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
        self._batches = deque(from_tensors(tensors), self._batches.maxlen)
        self.ledger = Counts(**counts)  # type: ignore[arg-type]

    def write_state(self, path: Path) -> list[StateFile] | None:
        """Write the state into a file, and what is spread over ranks into a folder beside it.

        None if a value is not finite.
        """
        ranks = self.policy.ranks
        own = ranks.first(lambda: write_state(self.state(), path))
        shards = write_shards(self.learner.shards(), path.with_suffix(""), ranks)
        return None if own is None or shards is None else [own, *shards]

    def read_state(self, path: Path, counts: Mapping[str, float]) -> None:
        """Restore the state in a file, with the folder beside it if there is one, and the results of `counts`.

        Raises CheckpointError naming a file that cannot be read, or the tensor that is missing or unfit.
        """
        tensors = read_state(path) | read_shards(path.with_suffix(""), self.learner.blank)
        try:
            self.load_state(tensors, counts)
        except CheckpointError as error:
            raise CheckpointError(f"{path.parent}: branch {self.name} does not fit: {error}") from error

    def settled_path(self) -> SettledPath:
        """The path on which the model computes."""
        return settled_path(self.policy)

    def load_weights(self, folder: Path) -> None:
        """Take over the weights in a folder, by name and tensor by tensor, and start a new optimizer."""
        self.learner.load_weights(StoredTensors(folder, str(folder)))

    def start_optimizer(self) -> None:
        """Forget the moments of Adam."""
        self.learner.forget()

    def write_weights(self, folder: Path) -> None:
        """Write all weights by name into a new folder, tied ones once. An adapter's update is added to its weights."""
        self.policy.ranks.first(lambda: write_folder(self.policy.weights(), folder))
