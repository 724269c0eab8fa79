"""Responses that no model sampled, so that their number and length are as a benchmark wants them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from copd.model.policy import Policy
from copd.types import Problem, Rollouts


def written(
    policy: Policy, problems: Sequence[Problem], rows: int, tokens: int, *, distinct: int | None = None
) -> Rollouts:
    """Responses of `tokens` random allowed tokens, `rows` to each problem, of which the first `distinct` differ."""
    allowed = (~policy.banned_V).nonzero()[:, 0].cpu()
    ordinary = allowed[~torch.isin(allowed, policy.end_ids.cpu())]
    count = len(problems) * rows
    draw = torch.Generator().manual_seed(0)
    tokens_NT = ordinary[torch.randint(len(ordinary), (count, tokens), generator=draw)]
    row_N = torch.arange(count)
    tokens_NT = tokens_NT[row_N - row_N % rows + row_N % rows % (distinct or rows)]
    return Rollouts(
        problems=tuple(problems),
        tokens_NT=tokens_NT,
        mask_NT=torch.ones(count, tokens, dtype=torch.bool),
        finished_N=torch.ones(count, dtype=torch.bool),
        logp_NT=torch.zeros(count, tokens),
        prompt_of_N=torch.arange(len(problems)).repeat_interleave(rows),
        temperature=1.0,
    )
