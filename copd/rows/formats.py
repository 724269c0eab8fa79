"""Converts rows of four libraries to one form and checks them. Nothing here reads a file or decodes a picture.

| format | columns that tell it | where the parts are |
|---|---|---|
| native | `prompt`, `answer` | also `images`, `videos`, `verifier`, `id`, `fps` (of videos given as frames) |
| verl | `prompt`, `reward_model` | answer in `reward_model.ground_truth`; `images`, `videos` |
| trl | `prompt`, `solution` | answer: the only `\\boxed{}` of the solution, else all of it; `images` or `image` |
| easyr1 | `problem`, `answer` | EasyR1 and EasyVideoR1: `images`, `videos`; `data_type` must agree with them |

`verifier` and `id` (EasyVideoR1: `problem_id`) are read in every format. Other columns are for prompt templates and a
user's reward function (`copd.rows.columns`). A prompt is a text or a list of messages. `<image>` and `<video>`, or
parts of type image and video, mark the places of media, one mark for each. Without marks, media stand before the text
of the first user message. In trl and easyr1 an answer wrapped in `<answer>` is unwrapped.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from copd.errors import BadRow, DataError, visible
from copd.rows.media import Reference
from copd.rows.prompts import Turn, as_text, kind_of, place_media, read_turns, sound_text, sound_unicode
from copd.types import Message

Raw = Mapping[str, Any]
"""A row in the form of its file."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "native": ("prompt", "answer"),
    "verl": ("prompt", "reward_model"),
    "trl": ("prompt", "solution"),
    "easyr1": ("problem", "answer"),
}
OPTIONAL = ("images", "videos", "verifier", "id", "fps")
SPELLED: Mapping[str, tuple[str, ...]] = {
    "native": OPTIONAL,
    "verl": ("images", "videos"),
    "trl": ("videos",),
    "easyr1": ("images", "videos"),
}
"""Optional columns by format. A similar name is refused: without its picture, a row would be another problem."""
MAX_MEDIA = 128
"""Most images, and most videos, of one row."""
MAX_COLUMNS, MAX_NAME = 1000, 20
"""Most columns of one row, and most characters of a name that may be a misspelt one. Names seen are remembered."""
WRAPPED_ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
BOXED = "\\boxed{"


@dataclass(frozen=True)
class RowRules:
    """The rules for all rows of a task.

    verifiers      names that a row may give
    verifier       name for rows that give none; None = such a row is bad
    boxed_answer   the content of the only `\\boxed{}` of a text, or None (`copd.rewards.answers`)
    system_prompt  for rows without a system message
    template       from (text of the last user message, the row) to the text that takes its place
    misread        from (verifier, answer) to why that verifier cannot read it, or None (`copd.rewards.verifiers`)
    """

    verifiers: Collection[str]
    boxed_answer: Callable[[str], str | None]
    verifier: str | None = None
    system_prompt: str | None = None
    template: Callable[[str, Raw], str] | None = None
    misread: Callable[[str, str], str | None] = lambda verifier, answer: None


@dataclass(frozen=True)
class Row:
    """A sound row. Its media are still references.

    `question` is the text of the row's own messages, without what a recipe adds to them. `id` may be None.
    """

    messages: tuple[Message, ...]
    question: str
    answer: str
    verifier: str
    id: str | None = None
    images: tuple[Reference, ...] = ()
    videos: tuple[Reference | tuple[Reference, ...], ...] = ()
    fps: float | None = None

    @property
    def kind(self) -> str:
        """ "text", "image" or "video", as of `copd.types.Problem`."""
        return "video" if self.videos else "image" if self.images else "text"

    @property
    def references(self) -> list[Reference]:
        """All images, videos and frames of videos."""
        return [*self.images, *(f for v in self.videos for f in (v if isinstance(v, tuple) else (v,)))]

    @property
    def prompt(self) -> str:
        """The text of the last message, with marks at the places of media."""
        return as_text(self.messages[-1])


def detect(columns: Collection[str], where: str) -> str:
    """The only format whose columns are all there. Raises DataError naming the candidates, or all columns."""
    found = [name for name, required in REQUIRED.items() if set(required) <= set(columns)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{where}: the columns fit {' and '.join(found)}; say which with format")
    needs = "; ".join(f"{name} has {' and '.join(required)}" for name, required in REQUIRED.items())
    raise DataError(f"{where}: no format fits the columns {_named(sorted(columns))}: {needs}")


def read_row(raw: Raw, format_name: str, rules: RowRules) -> Row:
    """A checked row of the named format. Raises BadRow with the reason."""
    for column in REQUIRED[format_name]:
        if raw.get(column) is None:
            raise BadRow(f"{column} is null" if column in raw else f"{column} is missing; columns are {_named(raw)}")
    if len(raw) > MAX_COLUMNS:
        raise BadRow(f"{len(raw)} columns; accepted: at most {MAX_COLUMNS}")
    _check_spelling(tuple(name for name in raw if len(name) <= MAX_NAME), format_name)
    fields = FORMATS[format_name](raw, rules)
    images = tuple(_reference(item, "images", i) for i, item in enumerate(_list(fields, "images")))
    videos = tuple(_video(item, i) for i, item in enumerate(_list(fields, "videos")))
    turns = read_turns(fields["prompt"])
    answer, verifier = _answer(fields["answer"]), _verifier(fields.get("verifier"), rules)
    if reason := rules.misread(verifier, answer):
        raise BadRow(f"the answer is {answer[:40]!r}; {reason}")
    return Row(
        messages=place_media(_dressed(turns, raw, rules), len(images), len(videos)),
        question="\n".join(text for _, text in turns),
        answer=answer,
        verifier=verifier,
        id=_id(fields.get("id")),
        images=images,
        videos=videos,
        fps=_fps(fields.get("fps")),
    )


def _dressed(turns: list[Turn], raw: Raw, rules: RowRules) -> list[Turn]:
    """The messages after adding the task's system prompt and putting its template around the last message."""
    if rules.template is not None:
        turns = [*turns[:-1], ("user", sound_text(rules.template(turns[-1][1], raw)))]
    return [("system", rules.system_prompt), *turns] if rules.system_prompt and turns[0][0] != "system" else turns


def _native(raw: Raw, rules: RowRules) -> Raw:
    return raw


def _verl(raw: Raw, rules: RowRules) -> Raw:
    reward_model = raw["reward_model"]
    if not isinstance(reward_model, Mapping) or reward_model.get("ground_truth") is None:
        raise BadRow(f"reward_model.ground_truth is missing, reward_model is {kind_of(reward_model)}")
    return {**raw, "answer": reward_model["ground_truth"]}


def _trl(raw: Raw, rules: RowRules) -> Raw:
    image, images, answer = raw.get("image"), raw.get("images"), _unwrapped(raw["solution"], rules)
    if image is not None and images:
        raise BadRow("both image and images are given; accepted: one of them")
    if answer is raw["solution"] and isinstance(answer, str) and "\n" in answer.strip():
        raise BadRow("no single answer: a solution of several lines without \\boxed{}")
    return {**raw, "images": images if image is None else [image], "answer": answer}


def _easyr1(raw: Raw, rules: RowRules) -> Raw:
    declared = raw.get("data_type")
    if declared is not None:
        present = {"text"} if not raw.get("images") and not raw.get("videos") else set()
        present |= {name for name in ("image", "video") if raw.get(f"{name}s")}
        if declared not in [*present]:
            raise BadRow(f"data_type is {str(declared)[:40]!r} but the row holds {' and '.join(sorted(present))}")
    answer = _unwrapped(raw["answer"], rules)
    name = raw.get("problem_id") if raw.get("id") is None else raw["id"]
    return {**raw, "prompt": raw["problem"], "answer": answer, "id": name}


FORMATS: Mapping[str, Callable[[Raw, RowRules], Raw]] = {
    "native": _native,
    "verl": _verl,
    "trl": _trl,
    "easyr1": _easyr1,
}
"""By format, a function from a row to one with the native columns. The required columns are there."""


@lru_cache(maxsize=64)
def _check_spelling(columns: tuple[str, ...], format_name: str) -> None:
    """Refuse a column whose name looks like that of an absent optional column. Other columns are accepted."""
    absent = [name for name in SPELLED[format_name] if name not in columns]
    for column in set(columns) - {*REQUIRED[format_name], *OPTIONAL}:
        if near := get_close_matches(column, absent, n=1, cutoff=0.85):
            raise BadRow(f"unknown column {column!r}; did you mean {near[0]!r}?")


def _unwrapped(solution: Any, rules: RowRules) -> Any:
    """The answer within a reference solution."""
    if not isinstance(solution, str):
        return solution
    wrapped = WRAPPED_ANSWER.fullmatch(solution)
    text = wrapped[1] if wrapped else solution
    if BOXED in text:
        answer = rules.boxed_answer(text)
        if answer is None:
            raise BadRow(f"no single answer: {text.count(BOXED)} \\boxed{{}} in it, or one that is not closed")
        return answer
    return text


def _named(columns: Iterable[str]) -> str:
    return visible(", ".join(name[:40] for name in list(columns)[:20])) or "(none)"


def _list(fields: Raw, column: str) -> Sequence[Any]:
    value = fields.get(column)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise BadRow(f"{column} is {kind_of(value)}; accepted: a list")
    if len(value) > MAX_MEDIA:
        raise BadRow(f"{len(value)} {column}; accepted: at most {MAX_MEDIA}")
    return value


def _video(value: Any, index: int) -> Reference | tuple[Reference, ...]:
    if isinstance(value, list | tuple):
        if not value:
            raise BadRow(f"videos[{index}] holds no frames")
        return tuple(_reference(frame, f"videos[{index}]", i) for i, frame in enumerate(value))
    return _reference(value, "videos", index)


def _reference(value: Any, column: str, index: int) -> Reference:
    """A path, bytes, or a mapping that holds one of them: {"bytes": ..., "path": ...}, {"image": ...}, {"video": ...}.

    In JSON bytes are written in base64.
    """
    if isinstance(value, Mapping):
        content = value.get("bytes")
        if isinstance(content, str):
            try:
                content = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError):
                raise BadRow(f"{column}[{index}].bytes is not base64") from None
        value = next((v for v in (content, *(value.get(k) for k in ("path", "image", "video"))) if v is not None), None)
    if not isinstance(value, str | bytes):
        raise BadRow(f"{column}[{index}] is {kind_of(value)}; accepted: a path, or bytes")
    return value


def _answer(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"the answer is {kind_of(value)}; accepted: a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"the answer is {value}; accepted: a text or a number")
    text = value.strip() if isinstance(value, str) else repr(value)
    if not text:
        raise BadRow("the answer is empty")
    return sound_unicode(text, "the answer")


def _verifier(name: Any, rules: RowRules) -> str:
    if name is None:
        if rules.verifier is None:
            raise BadRow("names no verifier, and the task has no default; set verifier")
        return rules.verifier
    if not isinstance(name, str) or name not in rules.verifiers:
        raise BadRow(f"unknown verifier {str(name)[:40]!r}; accepted: {', '.join(sorted(rules.verifiers))}")
    return name


def _id(value: Any) -> str | None:
    if value is None or (isinstance(value, int | str) and not isinstance(value, bool)):
        return None if value in (None, "") else sound_unicode(str(value), "the id")
    raise BadRow(f"id is {kind_of(value)}; accepted: a text or a whole number")


def _fps(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise BadRow(f"fps is {str(value)[:40]}; accepted: a number above 0")
    return float(value)
