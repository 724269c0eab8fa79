"""Sampling by a policy's own model: on a card with places that are refilled, elsewhere batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from copd.compute.batching import Held, stack_rows
from copd.compute.decode import Decoded, decode
from copd.compute.refill import Request, Samples, decode_refilled, refills
from copd.compute.stops import Stops
from copd.maths.cut import WHOLE, Cut
from copd.types import Problem, Rollouts


class Sampling(Samples, Protocol):
    """What sampling needs of a policy beside what the loop of cards needs."""

    shared_prefix: bool
    tokenizer: Any

    @property
    def sampling_budget(self) -> tuple[Held, int]: ...

    def split(
        self,
        rows_M: Sequence[int],
        problems: Sequence[Problem],
        prompt_of_N: Tensor,
        length_N: Tensor,
        held: Held,
        token_budget: int,
    ) -> list[Tensor]:
        """Split rows by a token budget."""
        ...

    def computing(self) -> AbstractContextManager[None]:
        """The context of every forward."""
        ...


@torch.no_grad()
def sample(
    policy: Sampling,
    problems: Sequence[Problem],
    *,
    rollouts_per_prompt: int,
    generator: torch.Generator | None,
    max_new_tokens: int,
    temperature: float,
    cut: Cut = WHOLE,
    stop: Sequence[str] = (),
) -> Rollouts:
    """`Policy.sample`. The generator gives all random numbers at once, one per row and position.

    On a card the cache obeys the token budget (`copd.compute.refill`). Elsewhere a batch holds one kind of prompt and
    obeys it as if every response had `max_new_tokens`.
    """
    prompt_of_N = torch.arange(len(problems)).repeat_interleave(rollouts_per_prompt)
    size = (len(prompt_of_N), max_new_tokens)
    uniform_NT = None if generator is None else torch.rand(size, generator=generator, dtype=torch.float64)
    stops = Stops(policy.tokenizer, stop) if stop else None
    asked = Request(problems, prompt_of_N.tolist(), uniform_NT, max_new_tokens, temperature, cut, stops)
    if policy.shared_prefix and refills(policy.device):
        with policy.computing():
            found = decode_refilled(policy, asked)
    else:
        found = _in_batches(policy, asked)
    return Rollouts(
        tuple(problems),
        found.tokens_NT,
        found.mask_NT,
        found.finished_N,
        found.logp_NT,
        prompt_of_N,
        temperature,
        cut=generator is not None and cut != WHOLE,
    )


def _in_batches(policy: Sampling, asked: Request) -> Decoded:
    prompt_of_N = torch.tensor(asked.prompt_of_N)
    most_N = torch.full_like(prompt_of_N, asked.max_new_tokens)
    row_sets = policy.split(range(len(prompt_of_N)), asked.problems, prompt_of_N, most_N, *policy.sampling_budget)
    batches = [sample_batch(policy, asked, rows_M, prompt_of_N[rows_M]) for rows_M in row_sets]
    back = torch.cat(row_sets).argsort()
    return Decoded(
        stack_rows([b.tokens_NT.cpu() for b in batches])[back],
        stack_rows([b.mask_NT.cpu() for b in batches])[back],
        stack_rows([b.logp_NT.cpu() for b in batches])[back],
        torch.cat([b.finished_N.cpu() for b in batches])[back],
    )


def sample_batch(policy: Sampling, asked: Request, rows_M: Tensor, prompt_of_M: Tensor) -> Decoded:
    """Sample the rows `rows_M` at once, which answer prompts of one kind."""
    chosen, prompt_of_M = torch.unique(prompt_of_M, return_inverse=True)
    prompts = policy.encoder.encode([asked.problems[p] for p in chosen.tolist()], policy.device)
    noise = torch.float32 if policy.device.type == "mps" else torch.float64
    with policy.computing():
        start = policy.forward.start_shared if policy.shared_prefix else policy.forward.start_plain
        prefixes, logits_PV = start(prompts, len(rows_M), asked.max_new_tokens)
        return decode(
            prefixes,
            logits_PV,
            prompt_of_M.to(policy.device),
            banned_V=policy.banned_V,
            end_ids=policy.end_ids,
            uniform_NT=None if asked.uniform_NT is None else asked.uniform_NT[rows_M].to(policy.device, noise),
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            cut=asked.cut,
            stops=asked.stops,
        )
