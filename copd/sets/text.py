"""Text: Polaris, and the five text benchmarks of the paper."""

from __future__ import annotations

from typing import Any

from copd.sets.converting import MATH, Raw, Shape, answer_in, text_in, without_proof

PROMPTS = ("problem", "Problem", "question")
ANSWERS = ("answer", "Answer", "solution", "Solution")
"""Where copies of a benchmark keep an answer. A solution is read for the answer in its only box."""


def polaris(raw: Raw) -> dict[str, Any]:
    """A row of Polaris-53K. `difficulty`, the pass rate of another model, is not kept."""
    return {"prompt": without_proof(text_in(raw, "problem")), "answer": answer_in(raw, "answer"), "verifier": MATH}


def problem(raw: Raw) -> dict[str, Any]:
    """A problem of a benchmark, in any of its usual copies."""
    return {"prompt": text_in(raw, *PROMPTS), "answer": answer_in(raw, *ANSWERS), "verifier": MATH}


POLARIS = (Shape("Polaris", frozenset({"problem", "answer", "difficulty"}), polaris),)
PROBLEMS = tuple(
    Shape(f"{prompt} and {answer}", frozenset({prompt, answer}), problem) for prompt in PROMPTS for answer in ANSWERS
)
