"""Turns parts into optimizer steps. No other place calls `.backward()`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from copd.compute.batching import distinct_rows, take_rows
from copd.errors import CheckpointError, NonFiniteError
from copd.maths.losses import clipped_surrogate, is_clipped
from copd.model.holding import WaitingRoom
from copd.model.objectives import Aggregate, Objective, over_sequences
from copd.model.optimizers import KINDS
from copd.model.policy import Policy
from copd.types import Rollouts

MAX_SKIPPED_IN_A_ROW = 5


@dataclass(frozen=True)
class StepReport:
    """The result of one step.

    `metrics` by name (`part/name` for a part) are means over the iterations. `tokens_trained` counts the tokens of all
    rows with a gradient, over all iterations, equal rows included. `skipped`: an iteration was not finite; it changed
    nothing and ended the step.
    """

    metrics: dict[str, float]
    tokens_trained: int
    skipped: bool


class _Frozen(NamedTuple):
    """What the first iteration over a micro-batch fixes for the later ones: pi_old, the advantages, values to log."""

    old_logp_MT: Tensor
    advantage_MT: Tensor
    logged: dict[str, Tensor]


@dataclass
class Means:
    """Token means over the micro-batches of one part. A row counts as often as it was sampled."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def add(self, mask_MT: Tensor, copies_M1: Tensor, values: dict[str, Tensor]) -> None:
        self.tokens += int((mask_MT * copies_M1).sum())
        sums = [torch.where(mask_MT, copies_M1 * value, 0.0).sum() for value in values.values()]
        for name, total in zip(values, torch.stack(sums).tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + total

    def named(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": total / max(1, self.tokens) for name, total in self.sums.items()}


class Learner:
    """AdamW on a policy's float32 weights, of a `kind` of `KINDS`. The optimizer's state is kept across phases.

    Every trainable parameter is updated in every step: a missing gradient counts as zero, so that text-only batches do
    not treat the vision tower differently (method.md, trap 4). `iterations` is the number of optimizer steps over each
    batch. Clips and `aggregate` hold for every part. `aggregate` binds a part's denominator once for all micro-batches.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        learning_rate: float,
        kind: str = "adamw",
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        iterations: int = 1,
        aggregate: Callable[[Rollouts], Aggregate] = over_sequences,
    ) -> None:
        self.policy = policy
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.aggregate = aggregate
        self.max_grad_norm = max_grad_norm
        self.clip_low, self.clip_high = clip_low, clip_high
        self.named_parameters = policy.trained_parameters()
        self._kind = KINDS[kind]
        self.optimizer = self._kind.make(
            self.named_parameters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay
        )
        self._room = WaitingRoom()
        self.skipped_in_a_row = 0

    def step(
        self,
        parts: Sequence[Objective],
        *,
        learning_rate: float | None = None,
        iterations: int | None = None,
        part_norms: bool = False,
    ) -> StepReport:
        """Make updates from the weighted sum of the parts, at another rate or as many others as are given.

        All parts add to one gradient. With `part_norms` the norm of each part's own is logged too; for that the CPU
        holds a copy of the gradient of the parts before it. Ratios, advantages and deltas refer to the log-probs of the
        first iteration. An iteration with a log-prob, loss or gradient that is not finite changes nothing and ends the
        step. The step then counts as skipped; the iterations before it stand. Raises NonFiniteError after
        `MAX_SKIPPED_IN_A_ROW` such steps.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate if learning_rate is None else learning_rate
        frozen: list[list[_Frozen]] = [[] for _ in parts]
        done = [self._pass(parts, frozen, part_norms=part_norms)]
        while len(done) < (iterations or self.iterations) and not done[-1].skipped:
            done.append(self._pass(parts, frozen, part_norms=part_norms))
        skipped = done[-1].skipped
        self._count(skipped=skipped)
        means = {name: sum(report.metrics[name] for report in done) / len(done) for name in done[0].metrics}
        return StepReport(means, sum(report.tokens_trained for report in done), skipped)

    def gradient(self, part: Objective) -> list[Tensor]:
        """The gradient of a part's loss by parameter, before any clipping of its norm. Nothing changes."""
        self._accumulate(part, [])
        gradients = self._gradients()
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of a model by name, tied ones once, and forget the moments of Adam."""
        self.policy.load_weights(weights)
        self.forget()

    def forget(self) -> None:
        """Forget the moments of Adam: what follows is another training."""
        self.optimizer.state.clear()

    def _pass(self, parts: Sequence[Objective], frozen: Sequence[list[_Frozen]], *, part_norms: bool) -> StepReport:
        metrics: dict[str, float] = {}
        tokens = 0
        for number, (part, frozen_part) in enumerate(zip(parts, frozen, strict=True)):
            before = [g.to("cpu", copy=True) for g in self._gradients()] if part_norms and number else None
            means = self._accumulate(part, frozen_part)
            tokens += means.tokens
            metrics |= means.named(part.name)
            if part_norms and len(parts) > 1:
                metrics[f"{part.name}/grad_norm"] = self._together(_norms(self._gradients(), before))
        gradients = self._gradients()
        norm = metrics["grad_norm"] = self._together(_norms(gradients))
        if len(parts) == 1:
            metrics[f"{parts[0].name}/grad_norm"] = norm
        sampled = all(bool(torch.isfinite(part.rollouts.logp_NT).all()) for part in parts)
        skipped = not (sampled and all(math.isfinite(value) for value in metrics.values()))
        if not skipped:
            torch._foreach_mul_(gradients, min(1.0, self.max_grad_norm / (norm + 1e-6)))
            self.optimizer.step()
            self.policy.changes += 1
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(metrics, tokens, skipped)

    def _accumulate(self, part: Objective, frozen: list[_Frozen]) -> Means:
        """Run the backward pass of one part over its micro-batches. The denominator covers all rollouts of the part.

        Equal rows are computed once. That row then weighs as much as all of them, in the objective and in the metrics.
        """
        means, aggregate = Means(), self.aggregate(part.rollouts)
        clip = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        distinct = distinct_rows(part.rollouts, part.rows_with_gradient(), part.key_N)
        rows_D = distinct.rows_D
        copies_N = torch.zeros_like(part.rollouts.prompt_of_N).index_copy(0, rows_D, distinct.copies_D)
        batches = self.policy.micro_batches(part.rollouts, rows_D) if len(rows_D) else []
        for number, (rows_M, share) in enumerate(self._turns(part.rollouts, batches)):
            batch = take_rows(part.rollouts, rows_M)
            stats = self.policy.token_stats(batch, target=part.target(rows_M))
            mask_MT = batch.mask_NT.to(self.policy.device)
            copies_M1 = copies_N[rows_M, None].to(self.policy.device)
            zeros_MT = torch.zeros(mask_MT.shape, device=self.policy.device, dtype=stats.logp_M.dtype)
            logp_MT = zeros_MT.masked_scatter(mask_MT, stats.logp_M)
            if number == len(frozen):
                frozen.append(_Frozen(logp_MT.detach(), *part.advantage(rows_M, logp_MT.detach())))
            old_MT, advantage_MT, logged = frozen[number]
            surrogate_MT = clipped_surrogate(logp_MT, old_MT, advantage_MT, **clip)
            penalty_MT, penalties = part.penalty(rows_M, logp_MT)
            if stats.divergence_M is not None:
                divergence_MT = zeros_MT.masked_scatter(mask_MT, stats.divergence_M)
                penalty_MT, penalties = penalty_MT + divergence_MT, {"divergence": divergence_MT.detach()}
            objective = share * part.weight * aggregate(copies_M1 * (surrogate_MT - penalty_MT), mask_MT)
            (-objective).backward()
            if not share:
                continue
            mismatch_MT = (old_MT - batch.logp_NT.to(old_MT)).abs()
            means.add(
                mask_MT,
                copies_M1,
                {
                    **logged,
                    **penalties,
                    "entropy": zeros_MT.masked_scatter(mask_MT, stats.entropy_M.to(zeros_MT)),
                    "clip_rate": is_clipped(logp_MT.detach(), old_MT, advantage_MT, **clip).float(),
                    "logp_mismatch": mismatch_MT,
                },
            )
        return self._of_all(means)

    def _turns(self, rollouts: Rollouts, batches: Sequence[Tensor]) -> Iterable[tuple[Tensor, float]]:
        """The micro-batches that this process computes, each with the share of its gradient that counts: 1 or 0."""
        return [(rows_M, 1.0) for rows_M in batches]

    def _of_all(self, means: Means) -> Means:
        """The means over all micro-batches by those of this process's."""
        return means

    def _together(self, norms: Sequence[Tensor]) -> float:
        """The norm of all gradients by those of each that this process holds."""
        return float(torch.linalg.vector_norm(torch.stack(tuple(norms))))

    def _gradients(self) -> list[Tensor]:
        """What the parts have added up to, parameter by parameter; zeros for those that none of them has reached."""
        for parameter in self.named_parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.named_parameters.values() if parameter.grad is not None]

    def to(self, device: torch.device | str) -> None:
        """Move the optimizer's state, if it follows the weights. The policy moves the weights."""
        for number, state in enumerate(self.optimizer.state.values() if self._kind.follows else ()):
            tensors = {(number, key): value for key, value in state.items() if isinstance(value, Tensor)}
            state.update({key: value for (_, key), value in self._room.moved(tensors, device).items()})

    def _count(self, *, skipped: bool) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{self.skipped_in_a_row} optimizer steps in a row had a NaN or infinite log-prob, loss or gradient; "
                "lower optimizer.learning_rate, or look for the first such step in metrics.jsonl"
            )

    def shards(self) -> dict[str, Tensor]:
        """What of the state is spread over the ranks of the branch, and therefore not in `state`."""
        return {}

    def blank(self, name: str) -> Tensor:
        """Room for a tensor of a checkpoint, `weight/NAME` or a moment, spread as the weight is.

        Raises KeyError for a name of no parameter.
        """
        return torch.empty_like(self.named_parameters[name.partition("/")[2]])

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer state by parameter name, tied weights once: `weight/NAME`, `exp_avg/NAME`, ..."""
        tensors = {f"weight/{name}": p.detach() for name, p in self.named_parameters.items()}
        for name, parameter in self.named_parameters.items():
            state = self.optimizer.state[parameter]
            for key in self._kind.shapes(parameter) if state else ():
                tensors[f"{key}/{name}"] = torch.as_tensor(state[key])
        return {**tensors, "skipped_in_a_row": torch.tensor(self.skipped_in_a_row)}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `state`.

        Raises CheckpointError, before anything is changed, naming a tensor that is missing, has another shape, or
        belongs to no parameter.
        """
        self._check_fit(tensors)
        for name, parameter in self.named_parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            home = parameter.device if self._kind.follows else "cpu"
            found = {key: tensors.get(f"{key}/{name}") for key in self._kind.shapes(parameter)}
            copies = {key: value.to(home, copy=True) for key, value in found.items() if value is not None}
            self.optimizer.state[parameter] = self._kind.completed(self.optimizer, parameter, copies)
        self.policy.changes += 1
        self.skipped_in_a_row = int(tensors["skipped_in_a_row"])

    def _check_fit(self, tensors: dict[str, Tensor]) -> None:
        shapes = {name: parameter.shape for name, parameter in self.named_parameters.items()}
        wanted = {f"weight/{name}": shape for name, shape in shapes.items()} | {"skipped_in_a_row": torch.Size()}
        if any(name.startswith("step/") for name in tensors):  # after the first step, every parameter has all of them
            for name, parameter in self.named_parameters.items():
                wanted |= {f"{key}/{name}": shape for key, shape in self._kind.shapes(parameter).items()}
        for name, shape in wanted.items():
            if name not in tensors:
                raise CheckpointError(f"tensor {name!r} is missing")
            if tensors[name].shape != shape:
                found = list(tensors[name].shape)
                raise CheckpointError(f"tensor {name!r} has shape {found}, the model's has {list(shape)}")
        if strangers := [name for name in tensors if name.startswith("weight/") and name not in wanted]:
            raise CheckpointError(f"tensor {strangers[0]!r} is of no parameter of the model")


def _norms(gradients: Sequence[Tensor], before: Sequence[Tensor] | None = None) -> Sequence[Tensor]:
    """The norm of each gradient, or of what it has gained since `before`."""
    if before is None:
        return torch._foreach_norm(list(gradients))
    gains = (now - then.to(now.device) for now, then in zip(gradients, before, strict=True))
    return [torch.linalg.vector_norm(gain) for gain in gains]
