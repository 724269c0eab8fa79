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
Choices in a column `options` or `choices` that the question does not show are put below it. Columns of other names are
renamed first (`copd.rows.usual`). A solution that ends with a line `#### 5`, as in GSM8K, has the answer 5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from copd.errors import BadRow, DataError, visible
from copd.rows.answers import answer_text, behind_hashes, unsaid, within
from copd.rows.choices import Choices, below, check_answer, check_unread, choices_of, shows
from copd.rows.columns import left_out
from copd.rows.media import Reference
from copd.rows.prompts import Turn, as_text, kind_of, place_media, read_turns, sound_text, sound_unicode
from copd.rows.references import Video, media_of
from copd.rows.unread import OPTIONAL, check_columns
from copd.rows.usual import Names, check_named, place_numbered, renamed, usual_names
from copd.types import Message

Raw = Mapping[str, Any]
"""A row in the form of its file."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "native": ("prompt", "answer"),
    "verl": ("prompt", "reward_model"),
    "trl": ("prompt", "solution"),
    "easyr1": ("problem", "answer"),
}
ALSO_READ: Mapping[str, tuple[str, ...]] = {"trl": ("image",), "easyr1": ("problem_id", "data_type")}
READ = {name: frozenset({*columns, *OPTIONAL, *ALSO_READ.get(name, ())}) for name, columns in REQUIRED.items()}
"""The columns that are read, by format."""
NO_NAMES: Names = {}
MAX_COLUMNS = 1000
"""Most columns of one row."""
EXACT, CHOICE = "exact", "choice"
"""Verifiers of `copd.rewards.verifiers`: one compares answers as texts, one as letters."""
UNHELD = "does not reach the reward function: JSON cannot hold it, or the row is too large"
RESPELLED = "the answer is a number in its shortest form, such as 3.1 for 3.10; for verifier exact write it as a text"


@dataclass(frozen=True)
class RowRules:
    """The rules for all rows of a task.

    verifiers      names that a row may give
    verifier       name for rows that give none; None = such a row is bad
    boxed_answer   the content of the only `\\boxed{}` of a text, or None (`copd.rewards.answers`)
    system_prompt  for rows without a system message
    template       from (text of the last user message, the row) to the text that takes its place
    shown          columns that the template reads
    misread        from (verifier, answer) to why no response can be graded right, or None (`copd.assemble.rows`)
    letter         the letter that verifier choice reads in an answer, or None (`copd.rewards.verifiers`)
    own            the user's own verifiers, which read answers of any type
    """

    verifiers: Collection[str]
    boxed_answer: Callable[[str], str | None]
    verifier: str | None = None
    system_prompt: str | None = None
    template: Callable[[str, Raw], str] | None = None
    shown: Collection[str] = ()
    misread: Callable[[str, str], str | None] = lambda verifier, answer: None
    letter: Callable[[str], str | None] = lambda answer: answer
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
    videos: tuple[Video, ...] = ()
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


def detect(columns: Collection[str], where: str, told: Sequence[str] | None = None) -> str:
    """The only format whose columns are all there.

    Raises DataError naming the candidates, or the columns as they are `told`, by default these.
    """
    found = [name for name, required in REQUIRED.items() if set(required) <= set(columns)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{where}: the columns fit {' and '.join(found)}; say which with format")
    needs = "; ".join(f"{name} has {' and '.join(required)}" for name, required in REQUIRED.items())
    raise DataError(
        f"{where}: no format fits the columns {_named(sorted(columns) if told is None else told)}: {needs}; "
        "`columns` in a recipe maps other names, as in {prompt: ask, answer: label}"
    )


def names_in(columns: Collection[str], format_name: str, given: Names, where: str) -> tuple[str, Names]:
    """The format of a file with these columns, and what of them is read under other names.

    `format_name` is auto, or the format itself. `given`: what the recipe says of names; else the usual ones are known.
    Raises DataError, naming the file `where`, if no format fits, or several.
    """
    check_named(columns, given, where)
    there = {*columns} - {*given.values()} | {ours for ours, theirs in given.items() if theirs in columns}
    formats = REQUIRED if format_name == "auto" else (format_name,)
    if not any(there.issuperset(REQUIRED[name]) for name in formats):
        given = {**usual_names(there), **given}
        there |= given.keys()
    return (detect(there, where, sorted(columns)) if format_name == "auto" else format_name), given


def read_row(raw: Raw, format_name: str, rules: RowRules, names: Names = NO_NAMES) -> Row:
    """A checked row of the named format. `names`: our names of columns that have others. Raises BadRow."""
    if len(raw) > MAX_COLUMNS:
        raise BadRow(f"{len(raw)} columns; accepted: at most {MAX_COLUMNS}")
    ours, numbers = renamed(raw, names)
    for column in REQUIRED[format_name]:
        if ours.get(column) is None:
            theirs = names.get(column, column)
            raise BadRow(f"{theirs} is null" if theirs in raw else f"{theirs} is missing; columns are {_named(raw)}")
    notes = check_columns(ours, READ[format_name], rules.shown)
    fields = FORMATS[format_name](ours, rules)
    asked = read_turns(fields["prompt"], notes)
    media = media_of(fields, notes)
    if (declared := ours.get("data_type")) in ("image", "video") and not (media.images or media.videos):
        raise BadRow(f"data_type is {declared!r}, but the row holds no picture and no video")
    verifier = _verifier(fields.get("verifier"), rules)
    answer = _answer(fields["answer"], verifier, rules, notes)
    if verifier in rules.own:
        notes += [f"the column `{name}` {UNHELD}" for name in left_out(raw)]
    choices = choices_of(ours)
    turns = asked if choices is None else _with_choices(asked, choices, rules, notes)
    dressed = _dressed(turns, raw, rules)
    if choices and choices.each:
        if rules.template is not None and not shows(dressed[-1][1], choices):
            notes.append(f"the column {choices.column} is not in the prompt that prompt_template makes")
        elif verifier not in rules.own:
            check_answer(answer, rules.letter(answer) if verifier == CHOICE else None, choices, notes)
    elif choices and verifier not in rules.own:
        check_unread(choices.column, ours[choices.column], answer, dressed[-1][1])
    images = media.images
    if numbers:
        dressed, images = place_numbered(dressed, images, numbers, notes)
    return Row(
        messages=place_media(dressed, len(images), len(media.videos), notes),
        question="\n".join(text for _, text in turns),
        answer=answer,
        verifier=verifier,
        id=_id(fields.get("id")),
        images=images,
        videos=media.videos,
        fps=media.fps,
        notes=tuple(dict.fromkeys(notes)),
    )


def _answer(value: Any, verifier: str, rules: RowRules, notes: list[str]) -> str:
    """The reference answer as text. Raises BadRow for one that no response can equal.

    Where only a default of `copd data check` stands for the verifier, that is noted.
    """
    is_own = verifier in rules.own
    answer = answer_text(value if is_own else behind_hashes(value), of_any_type=is_own)
    if not is_own and (reason := rules.misread(verifier, answer) or unsaid(answer)):
        if verifier in rules.verifiers:
            raise BadRow(f"the answer is {answer[:40]!r}; {reason}")
        notes.append(visible(f"verifiers of copd refuse the answer: {reason}"))
    if verifier == EXACT and isinstance(value, float):
        notes.append(RESPELLED)
    return answer


def _with_choices(turns: list[Turn], choices: Choices, rules: RowRules, notes: list[str]) -> list[Turn]:
    """The turns with the row's choices below its question, unless it shows them or a template may."""
    notes += choices.notes
    if rules.template is not None or not choices.each:
        return turns
    role, question = turns[-1]
    return [*turns[:-1], (role, below(question, choices, notes))]


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
    if raw.get("image") is not None and raw.get("images"):
        raise BadRow("both image and images are given; accepted: one of them")
    solution = within(raw["solution"], rules.boxed_answer)
    if not solution.is_marked and isinstance(solution.answer, str) and "\n" in solution.answer.strip():
        raise BadRow("no single answer: a solution of several lines without \\boxed{} or <answer>")
    return {**raw, "answer": solution.answer}


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


def _named(columns: Iterable[str]) -> str:
    return visible(", ".join(name[:40] for name in list(columns)[:20])) or "(none)"


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
