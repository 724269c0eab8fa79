"""How alike the branches behave, on the student's own rollouts (method.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from copd.maths.distill import mass_overlap, symmetric_kl, top_k_overlap, with_tail
from copd.types import BranchHandle, Rollouts, Score, Split

WHOLE_VOCABULARY = 4096
"""Up to here the KL is exact; above, it is taken over the student's likeliest tokens and one bucket for the rest."""
LIKELIEST = 64

Matrix = dict[str, dict[str, float]]
"""Student, then teacher."""


@dataclass
class Behaviour:
    """K x K measures by student and teacher, and the accuracy of each branch on each field, from sampled answers."""

    overlap: dict[int, Matrix] = field(default_factory=dict)
    chance: dict[int, float] = field(default_factory=dict)
    mass_overlap: Matrix = field(default_factory=dict)
    symmetric_kl: Matrix = field(default_factory=dict)
    kl_is_exact: bool = True
    accuracy: Matrix = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)


async def measure_behaviour(
    branches: Mapping[str, BranchHandle], fields: Sequence[str], *, problems: int, ks: Sequence[int]
) -> Behaviour:
    """Each branch answers the same validation problems of every field; every other branch scores its tokens.

    Nothing here is counted in the ledger. The mass-weighted overlap is that of the smallest k.
    """
    found = Behaviour()
    for name, student in branches.items():
        tokens = student.allowed_tokens
        found.kl_is_exact = tokens <= WHOLE_VOCABULARY
        found.chance = {k: k / tokens for k in ks}
        rollouts = [await student.validate(Split.VALIDATION, task, problems, 2, greedy=False) for task in fields]
        found.accuracy[name] = {t: _accuracy(r) for t, r in zip(fields, rollouts, strict=True)}
        found.samples += [await _sample(student, task, r) for task, r in zip(fields, rollouts, strict=True)]
        pairs = []
        for batch in rollouts:
            own = await student.inspect(batch, tokens if found.kl_is_exact else max(LIKELIEST, *ks))
            theirs = {
                other: own if other == name else await teacher.inspect(batch, max(ks), own.topk_ids_NTK)
                for other, teacher in branches.items()
            }
            pairs.append((batch.mask_NT, own, theirs))
        for other in branches:
            _compare(found, name, other, [(mask, own, theirs[other]) for mask, own, theirs in pairs], ks)
    return found


def _compare(
    found: Behaviour, student: str, teacher: str, batches: list[tuple[Tensor, Score, Score]], ks: Sequence[int]
) -> None:
    def tokens(name: str, which: int) -> Tensor:
        return torch.cat([getattr(batch[which], name)[batch[0]] for batch in batches])

    own_ids, own_logp = tokens("topk_ids_NTK", 1), tokens("topk_logp_NTK", 1)
    ids = tokens("topk_ids_NTK", 2)
    for k in ks:
        overlap = top_k_overlap(own_ids[:, :k], ids[:, :k])
        found.overlap.setdefault(k, {}).setdefault(student, {})[teacher] = float(overlap.mean())
    k = min(ks)
    mass = mass_overlap(own_ids[:, :k], own_logp[:, :k], ids[:, :k])
    found.mass_overlap.setdefault(student, {})[teacher] = float(mass.mean())
    their_logp = own_logp if student == teacher else tokens("at_ids_NTK", 2)
    if not found.kl_is_exact:
        own_logp, their_logp = with_tail(own_logp), with_tail(their_logp)
    found.symmetric_kl.setdefault(student, {})[teacher] = float(symmetric_kl(own_logp, their_logp).mean())


async def _sample(branch: BranchHandle, task: str, rollouts: Rollouts) -> dict[str, Any]:
    assert rollouts.reward_N is not None
    problem, text = rollouts.problems[0], (await branch.texts(rollouts))[0]
    return {
        "branch": branch.name,
        "field": task,
        "problem": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "response": text,
        "reward": float(rollouts.reward_N[0]),
    }


def _accuracy(rollouts: Rollouts) -> float:
    assert rollouts.correct_N is not None
    return float(rollouts.correct_N.float().mean())
