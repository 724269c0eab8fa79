"""Images: MMFineReason-123K in its two forms, and the sub-questions of ZeroBench."""

from __future__ import annotations

from typing import Any

from copd.errors import BadRow
from copd.sets.converting import EXACT, LeftOut, Raw, Shape, answer_in, list_in, text_in, verifier_of, without_proof


def mmfinereason(raw: Raw) -> dict[str, Any]:
    """A row as OpenDataArena publishes it: one picture in the file itself."""
    if raw.get("image") is None:
        raise BadRow("image is null; accepted: a picture")
    return _graded({**raw, "images": [raw["image"]]}, "question")


def mmfinereason_files(raw: Raw) -> dict[str, Any]:
    """A row as iieycx publishes it for RL: pictures by their paths."""
    return _graded(raw, "problem")


def zerobench(raw: Raw) -> dict[str, Any]:
    """A sub-question of ZeroBench. A test problem keeps an answer of any kind: a word is compared as it is written."""
    answer = answer_in(raw, "question_answer")
    try:
        verifier = verifier_of(answer)
    except LeftOut:
        verifier = EXACT
    pictures = list_in(raw, "question_images_decoded")
    return {"prompt": text_in(raw, "question_text"), "images": pictures, "answer": answer, "verifier": verifier}


def _graded(raw: Raw, prompt: str) -> dict[str, Any]:
    """A row with the verifier that its answer needs. A question of yes or no says which words are meant."""
    asked, answer = without_proof(text_in(raw, prompt)), answer_in(raw, "answer")
    verifier = verifier_of(answer)
    if verifier == EXACT:
        answer = answer.rstrip(".").capitalize()
        both = ("Yes", "No") if answer in ("Yes", "No") else ("True", "False")
        asked = f"{asked}\nAnswer {both[0]} or {both[1]}."
    return {"prompt": asked, "images": list_in(raw, "images"), "answer": answer, "verifier": verifier}


MMFINEREASON = (
    Shape("MMFineReason (OpenDataArena)", frozenset({"question", "answer", "image"}), mmfinereason),
    Shape("MMFineReason (iieycx, for RL)", frozenset({"problem", "answer", "images"}), mmfinereason_files),
)
ZEROBENCH = (Shape("ZeroBench", frozenset({"question_text", "question_images_decoded", "question_answer"}), zerobench),)
