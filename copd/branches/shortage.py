"""What a branch says when memory does not suffice: what it was doing, with how many tokens, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from copd.errors import OutOfMemoryError, first_line
from copd.model.policy import Policy
from copd.system.shortage import is_shortage

Activity = Literal["sampling", "scoring", "training"]
HELP: Mapping[Activity, str] = {
    "sampling": "set sampling.cache_tokens lower than that, or lower sampling.max_new_tokens; model.dtype=bfloat16 "
    "halves the cache",
    "scoring": "set model.micro_batch_tokens lower than that, or lower sampling.max_new_tokens",
    "training": "set model.micro_batch_tokens lower than that, or model.gradient_checkpointing=true, "
    "optimizer.kind=adamw_8bit or lora={rank: 16}",
}
"""The fields of a recipe that lower the memory of an activity."""


@contextmanager
def short_of_memory(who: str, activity: Activity, tokens: int, policy: Policy) -> Iterator[None]:
    """Raise OutOfMemoryError if memory does not suffice for the block, which computes with so many response tokens."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        at_once = policy.cache_tokens if activity == "sampling" else policy.micro_batch_tokens
        raise OutOfMemoryError(
            f"branch {who}: out of memory in {activity}: {tokens:,} response tokens, at most {at_once:,} tokens at "
            f"once, on {policy.device} ({first_line(error)}); {HELP[activity]}; `copd plan` tells what each saves"
        ) from error
