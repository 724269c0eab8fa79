"""Videos: OneThinker, Video-R1 and VideoChat-R1. Their files hold questions of other kinds too, which are left out."""

from __future__ import annotations

from typing import Any

from copd.errors import visible
from copd.sets.converting import CHOICE, MATH, LeftOut, Raw, Shape, answer_in, list_in, text_in

VERIFIERS = {"multiple choice": CHOICE, "multiple-choice": CHOICE, "numerical": MATH, "math": MATH}
"""The types of problems that a verifier of ours can grade."""


def onethinker(raw: Raw) -> dict[str, Any]:
    """A row of OneThinker, which says its own type and the videos' paths."""
    return _typed(raw, answer_in(raw, "answer"))


def video_r1(raw: Raw) -> dict[str, Any]:
    """A row of Video-R1. Its answer stands in the tag of `solution`."""
    return _typed({**raw, "videos": [text_in(raw, "path")]}, answer_in(raw, "solution"))


def videochat_r1(raw: Raw) -> dict[str, Any]:
    """A row of NExT-GQA, the only part of VideoChat-R1's data whose answers are letters."""
    return {
        "prompt": text_in(raw, "question"),
        "videos": [text_in(raw, "video")],
        "options": list_in(raw, "options"),
        "answer": answer_in(raw, "answer").strip("()"),
        "verifier": CHOICE,
    }


def _typed(raw: Raw, answer: str) -> dict[str, Any]:
    if (medium := raw.get("data_type")) != "video":
        raise LeftOut(f"its data_type is {_shown(medium)}, not video")
    verifier = VERIFIERS.get(str(raw.get("problem_type")).lower())
    if verifier is None:
        raise LeftOut(f"its problem_type is {_shown(raw.get('problem_type'))}, which no verifier can compare")
    row = {"prompt": text_in(raw, "problem"), "videos": list_in(raw, "videos"), "answer": answer, "verifier": verifier}
    return row | ({"options": list_in(raw, "options")} if raw.get("options") and verifier == CHOICE else {})


def _shown(value: Any) -> str:
    return visible(repr(value)[:40])


VIDEO40K = (
    Shape("OneThinker", frozenset({"problem", "answer", "problem_type", "data_type", "options"}), onethinker),
    Shape("Video-R1", frozenset({"problem", "solution", "path", "problem_type", "data_type"}), video_r1),
    Shape("VideoChat-R1 (NExT-GQA)", frozenset({"question", "options", "answer", "video"}), videochat_r1),
)
