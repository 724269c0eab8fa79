"""Verifiers by name: does a final answer equal the reference? Pure functions of two strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from copd.errors import RecipeError
from copd.rewards.answers import final_answer
from copd.types import Problem

INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def exact(answer: str, reference: str) -> bool:
    """Equal but for surrounding white space."""
    return answer.strip() == reference.strip()


def integer(answer: str, reference: str) -> bool:
    """Equal as whole numbers of at most 18 digits; anything else is wrong."""
    found, wanted = answer.strip(), reference.strip()
    return bool(INTEGER.fullmatch(found) and INTEGER.fullmatch(wanted)) and int(found) == int(wanted)


VERIFIERS: Mapping[str, Callable[[str, str], bool]] = {"exact": exact, "integer": integer}


def reward(problem: Problem, response: str, *, finished: bool) -> float:
    """1.0 where a finished response has exactly one final answer and the problem's verifier accepts it, else 0.0.

    `response` is the text between prompt and end token: neither the prompt nor anything after the end counts. Raises
    RecipeError where the problem names an unknown verifier.
    """
    if problem.verifier not in VERIFIERS:
        raise RecipeError(
            f"problem {problem.id}: unknown verifier {problem.verifier!r}; accepted: {', '.join(sorted(VERIFIERS))}"
        )
    answer = final_answer(response, finished=finished)
    return float(answer is not None and VERIFIERS[problem.verifier](answer, problem.answer))
