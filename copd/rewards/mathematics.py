"""Mathematical equality by math-verify. It parses what a model wrote: only ever called where it can be killed."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

for library in ("math_verify", "latex2sympy2_extended"):
    logging.getLogger(library).setLevel(logging.CRITICAL)


def equivalent(answer: str, reference: str) -> bool:
    """Whether math-verify takes one piece of LaTeX for equal to another; may hang, crash or eat memory.

    Its own time limits are off: they need the main thread, and stop nothing that runs in C.
    """
    return bool(verify(list(_parsed(reference)), list(_parsed(answer)), timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Any, ...]:
    return tuple(parse(f"\\boxed{{{text}}}", parsing_timeout=None))
