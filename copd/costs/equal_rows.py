"""The micro-batches of rows that are all as long as they may be, which is what `copd plan` counts with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from copd.compute.batching import Held, micro_batches
from copd.costs.measured import PromptSizes
from copd.costs.memory import Batch

COUNTED = 16
"""Full micro-batches of equal prompts that are looked at; those that follow hold no more."""


class EqualRows(NamedTuple):
    """Rows of a capability that are sampled, scored or trained together: prompts, and responses to each."""

    capability: str
    prompts: int
    rows: int


def batches_of(asked: EqualRows, prompts: PromptSizes, response: int, budget: int, held: Held) -> Iterator[Batch]:
    """The micro-batches of rows of `response` tokens to the longest prompts, each size once."""
    few = _counted(asked, prompts.longest, response, budget)
    prompt_of_N = [p for p in range(few.prompts) for _ in range(few.rows)]
    found = micro_batches(
        range(len(prompt_of_N)),
        prompt_of_N,
        [response] * len(prompt_of_N),
        kind_P=["text"] * few.prompts,
        prompt_length_P=[prompts.longest] * few.prompts,
        token_budget=budget,
        held=held,
    )
    for count, rows in {(len({prompt_of_N[n] for n in batch.tolist()}), len(batch)) for batch in found}:
        yield Batch(count, rows, prompts.longest, response, count * prompts.patches)


def _counted(asked: EqualRows, prompt: int, response: int, budget: int) -> EqualRows:
    """As many of the rows as decide what the fullest micro-batch holds, however many are asked for.

    A group far above the budget is halved, as `micro_batches` would do. Of prompts, which are equal, a few
    micro-batches stand for all.
    """
    rows = asked.rows
    while rows > 4 * (budget // response + 1):
        rows = (rows + 1) // 2
    return EqualRows(asked.capability, min(asked.prompts, COUNTED * (budget // (prompt + response) + 1)), rows)
