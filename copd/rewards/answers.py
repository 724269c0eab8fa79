"""The final answer of a response. Text is only searched, never run or parsed as code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

BOXED = "\\boxed{"
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or a character behind a backslash, which is none."""
THINK, THOUGHT = "<think>", "</think>"
TAG, CLOSING_TAG = "<answer>", "</answer>"


def final_answer(response: str, *, finished: bool, form: str = "boxed", prompt: str = "") -> str | None:
    """The response's only final answer in one of the `FORMS`, or None.

    None for a truncated response, for one with no answer or with several, and for an answer that is never closed. So a
    response that lists all options has no answer. Thoughts up to the last `</think>` do not count; a response whose
    thoughts are never closed has no answer. A response whose only answer stands in its repetition of the `prompt` has
    none; one that repeats it and adds another has several, and so none.
    """
    spoken = behind_thoughts(response)
    if not finished or spoken is None:
        return None
    answer = FORMS[form](spoken)
    echo = prompt.strip()
    if (BOXED in echo or TAG in echo) and echo in spoken and FORMS[form](spoken.replace(echo, "")) is None:
        return None
    return answer


def behind_thoughts(response: str) -> str | None:
    """What a response says after its thoughts; None if they are never closed."""
    spoken = response.rpartition(THOUGHT)[2]
    return None if THINK in spoken else spoken


def only_box(text: str) -> str | None:
    """The content of the only `\\boxed{}`, however deeply its braces nest. An escaped brace such as `\\{` is a sign."""
    if text.count(BOXED) != 1:
        return None
    start = text.index(BOXED) + len(BOXED)
    depth = 1
    for brace in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip()
    return None


def only_tag(text: str) -> str | None:
    """The content of the only `<answer></answer>`."""
    if text.count(TAG) != 1 or text.count(CLOSING_TAG) != 1:
        return None
    content, closing, _ = text.partition(TAG)[2].partition(CLOSING_TAG)
    return content.strip() if closing else None


OPENING: Mapping[str, str] = {"boxed": BOXED, "tag": TAG}
"""What a final answer in each form begins with."""
MARKS: Mapping[str, tuple[str, ...]] = {"boxed": (THINK, THOUGHT, BOXED), "tag": (THINK, THOUGHT, TAG, CLOSING_TAG)}
"""The texts that a response in each form is made of beside its own words. A model must be able to emit them."""
FORMS: Mapping[str, Callable[[str], str | None]] = {"boxed": only_box, "tag": only_tag}
"""The forms of a final answer in a response, with their readers."""
