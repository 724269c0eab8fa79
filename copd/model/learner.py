"""Parts of an objective to one optimizer step. The only place that calls `.backward()`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from copd.errors import NonFiniteError
from copd.maths.losses import clipped_surrogate, is_clipped, sequence_mean
from copd.model.batching import take_rows
from copd.model.parts import Objective
from copd.model.policy import Policy

MAX_SKIPPED_IN_A_ROW = 5


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did: `metrics` by name (per part: `part/name`), tokens trained on, whether it counted."""

    metrics: dict[str, float]
    tokens_trained: int
    skipped: bool


@dataclass
class _Means:
    """Token means over the micro-batches of one part."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: int = 0

    def add(self, mask_MT: Tensor, values: dict[str, Tensor]) -> None:
        self.tokens += int(mask_MT.sum())
        for name, value in values.items():
            self.sums[name] += float(value[mask_MT].sum())

    def named(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": total / max(1, self.tokens) for name, total in self.sums.items()}


class Learner:
    """AdamW on a policy's float32 weights; state lives on across phases.

    Every trainable parameter is stepped every time: a missing gradient counts as zero, so that text-only batches do not
    treat the vision tower differently (method.md, trap 4).
    """

    def __init__(
        self,
        policy: Policy,
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
    ) -> None:
        self.policy = policy
        self.max_grad_norm = max_grad_norm
        self.clip_low, self.clip_high = clip_low, clip_high
        self.named_parameters = policy.trained_parameters()
        self.optimizer = torch.optim.AdamW(
            self.named_parameters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        self.skipped_in_a_row = 0

    def step(self, parts: Sequence[Objective]) -> StepReport:
        """One update from the weighted sum of the parts.

        A step in which a sampled log-prob, a loss or a gradient is not finite changes nothing and is counted; raises
        NonFiniteError after `MAX_SKIPPED_IN_A_ROW` of them.
        """
        metrics: dict[str, float] = {}
        tokens = 0
        totals = [torch.zeros_like(p) for p in self.named_parameters.values()]
        for part in parts:
            means = self._accumulate(part)
            tokens += means.tokens
            gradients = self._take_gradients()
            metrics |= means.named(part.name)
            metrics[f"{part.name}/grad_norm"] = float(_norm(gradients))
            torch._foreach_add_(totals, gradients)
        norm = float(_norm(totals))
        metrics["grad_norm"] = norm
        sampled = all(bool(torch.isfinite(part.rollouts.logp_NT).all()) for part in parts)
        if not (sampled and all(math.isfinite(value) for value in metrics.values())):
            self._count_skipped()
            return StepReport(metrics, tokens, skipped=True)
        self.skipped_in_a_row = 0
        scale = min(1.0, self.max_grad_norm / (norm + 1e-6))
        for parameter, total in zip(self.named_parameters.values(), totals, strict=True):
            parameter.grad = total.mul_(scale)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(metrics, tokens, skipped=False)

    def _accumulate(self, part: Objective) -> _Means:
        """Backward of one part over its micro-batches; its denominator is the part's number of responses."""
        means, sequences = _Means(), len(part.rollouts.tokens_NT)
        rows = part.rows_with_gradient()
        for rows_M in self.policy.micro_batches(part.rollouts, rows) if len(rows) else []:
            batch = take_rows(part.rollouts, rows_M)
            stats = self.policy.token_stats(batch)
            mask_MT = batch.mask_NT.to(self.policy.device)
            zeros_MT = torch.zeros(mask_MT.shape, device=self.policy.device, dtype=stats.logp_M.dtype)
            logp_MT = zeros_MT.masked_scatter(mask_MT, stats.logp_M)
            old_MT = logp_MT.detach()
            advantage_MT, logged = part.advantage(rows_M, old_MT)
            clip = {"clip_low": self.clip_low, "clip_high": self.clip_high}
            surrogate_MT = clipped_surrogate(logp_MT, old_MT, advantage_MT, **clip)
            objective = part.weight * sequence_mean(surrogate_MT, mask_MT, sequences=sequences)
            (-objective).backward()
            mismatch_MT = (old_MT - batch.logp_NT.to(old_MT)).abs()
            means.add(
                mask_MT,
                {
                    **logged,
                    "entropy": zeros_MT.masked_scatter(mask_MT, stats.entropy_M.to(zeros_MT)),
                    "clip_rate": is_clipped(logp_MT.detach(), old_MT, advantage_MT, **clip).float(),
                    "logp_mismatch": mismatch_MT,
                },
            )
        return means

    def _take_gradients(self) -> list[Tensor]:
        gradients = []
        for parameter in self.named_parameters.values():
            gradients.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            parameter.grad = None
        return gradients

    def to(self, device: torch.device | str) -> None:
        """Move the optimizer's state; the weights are the policy's to move."""
        for state in self.optimizer.state.values():
            state.update({key: value.to(device) for key, value in state.items()})

    def _count_skipped(self) -> None:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{self.skipped_in_a_row} optimizer steps in a row had a NaN or infinite log-prob, loss or gradient; "
                "lower optimizer.learning_rate, or look for the first such step in metrics.jsonl"
            )

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer state by parameter name, tied weights once: `weight/NAME`, `exp_avg/NAME`, ..."""
        tensors = {f"weight/{name}": p.detach() for name, p in self.named_parameters.items()}
        for name, parameter in self.named_parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        return {**tensors, "skipped_in_a_row": torch.tensor(self.skipped_in_a_row)}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` gave; raises KeyError naming a tensor that is missing."""
        for name, parameter in self.named_parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors]
            copies = {key: tensors[f"{key}/{name}"].to(parameter.device, copy=True) for key in keys}
            self.optimizer.state[parameter] = copies
        self.skipped_in_a_row = int(tensors["skipped_in_a_row"])


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
