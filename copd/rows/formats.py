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
of the first user message. In trl and easyr1 the answer is what stands in `<answer>` or `\\boxed{}` behind the thoughts.
Choices in a column `options` or `choices` that the question does not show are put below it.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from copd.errors import BadRow, DataError, visible
from copd.rows.answers import Choices, answer_text, choices_of, shows, within
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
PICTURE_IN_BASE64 = ("iVBORw0KGgo", "/9j/", "UklGR")
"""How PNG, JPEG and WEBP begin in base64."""
DATA_URL = "data:"
READ_BESIDE = {"bytes", "path", "image", "video", "type", "fps"}
"""What is read of a picture or video that is a mapping; `type` says what the key says."""


@dataclass(frozen=True)
class RowRules:
    """The rules for all rows of a task.

    verifiers      names that a row may give
    verifier       name for rows that give none; None = such a row is bad
    boxed_answer   the content of the only `\\boxed{}` of a text, or None (`copd.rewards.answers`)
    system_prompt  for rows without a system message
    template       from (text of the last user message, the row) to the text that takes its place
    misread        from (verifier, answer) to why that verifier cannot read it, or None (`copd.rewards.verifiers`)
    own            the user's own verifiers, which read answers of any type
    """

    verifiers: Collection[str]
    boxed_answer: Callable[[str], str | None]
    verifier: str | None = None
    system_prompt: str | None = None
    template: Callable[[str, Raw], str] | None = None
    misread: Callable[[str, str], str | None] = lambda verifier, answer: None
    own: Collection[str] = ()


@dataclass(frozen=True)
class Row:
    """A sound row. Its media are still references.

    `question` is the text of the row's own messages, without what a recipe adds to them. `id` may be None. `notes` say
    what of the row is not read, or is read otherwise than written.
    """

    messages: tuple[Message, ...]
    question: str
    answer: str
    verifier: str
    id: str | None = None
    images: tuple[Reference, ...] = ()
    videos: tuple[Reference | tuple[Reference, ...], ...] = ()
    fps: float | None = None
    notes: tuple[str, ...] = ()

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
    notes: list[str] = []
    images = tuple(_reference(item, "images", i, notes) for i, item in enumerate(_list(fields, "images")))
    given = _list(fields, "videos")
    videos = tuple(_video(item, i, notes) for i, item in enumerate(given))
    turns = _with_choices(read_turns(fields["prompt"]), choices := choices_of(raw), rules, notes)
    verifier = _verifier(fields.get("verifier"), rules)
    answer = answer_text(fields["answer"], of_any_type=verifier in rules.own)
    if reason := rules.misread(verifier, answer):
        raise BadRow(f"the answer is {answer[:40]!r}; {reason}")
    dressed = _dressed(turns, raw, rules)
    if choices and choices.lines and rules.template and not shows(dressed[-1][1], choices.lines):
        notes.append(f"the column {choices.column} is not in the prompt that prompt_template makes")
    return Row(
        messages=place_media(dressed, len(images), len(videos)),
        question="\n".join(text for _, text in turns),
        answer=answer,
        verifier=verifier,
        id=_id(fields.get("id")),
        images=images,
        videos=videos,
        fps=_fps(_rate(given) if fields.get("fps") is None else fields["fps"]),
        notes=tuple(dict.fromkeys(notes)),
    )


def _with_choices(turns: list[Turn], choices: Choices | None, rules: RowRules, notes: list[str]) -> list[Turn]:
    """The turns with the row's choices below its question, unless it shows them or a template may."""
    if choices is None or rules.template is not None:
        return turns
    if not choices.lines:
        notes.append(f"the column {choices.column} is not read: it is no list of choices")
        return turns
    if shows(turns[-1][1], choices.lines):
        return turns
    notes.append(f"the column {choices.column} is put below the question, which does not show it")
    return [*turns[:-1], (turns[-1][0], "\n".join([turns[-1][1], *choices.lines]))]


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
    image, images, solution = raw.get("image"), raw.get("images"), within(raw["solution"], rules.boxed_answer)
    if image is not None and images:
        raise BadRow("both image and images are given; accepted: one of them")
    if not solution.is_marked and isinstance(solution.answer, str) and "\n" in solution.answer.strip():
        raise BadRow("no single answer: a solution of several lines without \\boxed{} or <answer>")
    return {**raw, "images": images if image is None else [image], "answer": solution.answer}


def _easyr1(raw: Raw, rules: RowRules) -> Raw:
    declared = raw.get("data_type")
    if declared is not None:
        present = {"text"} if not raw.get("images") and not raw.get("videos") else set()
        present |= {name for name in ("image", "video") if raw.get(f"{name}s")}
        if declared not in [*present]:
            raise BadRow(f"data_type is {str(declared)[:40]!r} but the row holds {' and '.join(sorted(present))}")
    answer = within(raw["answer"], rules.boxed_answer).answer
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


def _video(value: Any, index: int, notes: list[str]) -> Reference | tuple[Reference, ...]:
    frames = value.get("video") if isinstance(value, Mapping) else value
    if not isinstance(frames, list | tuple):
        if isinstance(value, Mapping) and value.get("fps") is not None:
            notes.append("fps beside a video file is not read; media.fps in the recipe samples it")
        return _reference(value, "videos", index, notes)
    if not frames:
        raise BadRow(f"videos[{index}] holds no frames")
    _note_unread(value, "videos", notes)
    return tuple(_reference(frame, f"videos[{index}]", i, notes) for i, frame in enumerate(frames))


def _rate(videos: Sequence[Any]) -> Any:
    """The frame rate that stands beside every video of a row; None without one. Raises BadRow for different ones."""
    rates = [video.get("fps") if isinstance(video, Mapping) else None for video in videos]
    if any(rate != rates[0] for rate in rates):
        raise BadRow("its videos have different fps; accepted: one for all")
    return rates[0] if rates else None


def _reference(value: Any, column: str, index: int, notes: list[str]) -> Reference:
    """A path, bytes, or a mapping that holds one of them: {"bytes": ..., "path": ...}, {"image": ...}, {"video": ...}.

    In JSON bytes are written in base64, or as a data URL.
    """
    if isinstance(value, Mapping):
        _note_unread(value, column, notes)
        content = value.get("bytes")
        if isinstance(content, str):
            content = _base64(content, f"{column}[{index}].bytes")
        value = next((v for v in (content, *(value.get(k) for k in ("path", "image", "video"))) if v is not None), None)
    if isinstance(value, str) and value.lstrip().startswith((DATA_URL, *PICTURE_IN_BASE64)):
        return _base64(value, f"{column}[{index}]")
    if not isinstance(value, str | bytes):
        raise BadRow(f"{column}[{index}] is {kind_of(value)}; accepted: a path, or bytes")
    return value


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRow(f"{where} is not base64") from None


def _note_unread(value: Any, column: str, notes: list[str]) -> None:
    """Note what stands beside a picture or video and is not read, such as bounds of other libraries."""
    unread = set(value) - READ_BESIDE if isinstance(value, Mapping) else ()
    notes += [
        f"{visible(str(name)[:MAX_NAME])} beside {column} is not read; media in the recipe has bounds for all"
        for name in sorted(unread, key=str)
        if value[name] is not None
    ]


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
