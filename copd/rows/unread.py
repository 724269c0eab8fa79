"""What of a row is not read: columns, and keys of mappings in it. Each is told; a misspelt column is refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

from copd.errors import BadRow, visible
from copd.rows.columns import MEDIA

CHOICES = ("options", "choices")
"""Columns that may hold the choices of a question."""
OPTIONAL = ("images", "videos", "verifier", "id", "fps", *CHOICES)
"""Columns that are read in every format."""
MISSPELT = tuple(name for name in OPTIONAL if name != "id")
"""Columns for which a similar name is refused: without its picture or its choices, a row would be another problem."""
BOOKKEEPING = frozenset(
    {"data_source", "ability", "extra_info", "agent_name", "index", "split"}
    | {"problem_id", "problem_type", "data_type", "__index_level_0__"}
    | {"img_type", "question_type", "subfield", "topic_difficulty"}
)
"""Columns that verl, EasyR1, pandas and MMMU have beside each problem, and that nobody expects a model to see."""
WORDS = {
    "images": frozenset({"image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos"}),
    "videos": frozenset({"video", "videos", "clip", "clips", "frame", "frames", "movie", "movies"}),
    "options": frozenset({"option", "options", "choice", "choices", "candidate", "candidates", "ending", "endings"})
    | frozenset({"alternative", "alternatives", "distractor", "distractors"}),
}
"""By column, the words in other names by which data sets call it."""
LETTERS = frozenset("ABCDEFGHIJ")
"""Names of columns that each hold one choice."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
HELD = {"images": "pictures", "videos": "videos", "options": "choices"}
JSON = str | bool | int | float | list | tuple | Mapping
"""Types that JSON can hold, and that reward functions therefore see."""
MAX_NAME = 64
"""Most characters of a name that is told. Names seen are remembered."""


class Stranger(NamedTuple):
    """A column that is not read, and notes on it.

    `meant`: the column that it may be meant for, by a slip of its name (`is_misspelt`) or by another name. `note` and
    `slip` tell of it, the second if that column is missing.
    """

    name: str
    meant: str | None
    is_misspelt: bool
    note: str
    slip: str


def is_given(value: Any) -> bool:
    """Whether a value says anything. Null, an empty text and an empty list do not."""
    return value is not None and not (isinstance(value, str | bytes | list | tuple | Mapping) and not len(value))


def check_columns(raw: Mapping[str, Any], read: frozenset[str], shown: Collection[str]) -> list[str]:
    """A note for each column that is neither `read` nor `shown` by a template.

    Raises BadRow for one whose name looks like that of an absent column which would be read.
    """
    notes = []
    names = tuple(name for name in raw if len(name) <= MAX_NAME)
    for stranger in strangers(names, read):
        name, meant, value = stranger.name, stranger.meant, raw[stranger.name]
        if name in shown or not is_given(value):
            continue
        if meant is None or any(is_given(raw.get(column)) for column in _alike(meant) if column in read):
            notes.append(stranger.note if isinstance(value, JSON) else f"the column `{visible(name)}` is not read")
        elif stranger.is_misspelt and (meant not in CHOICES or isinstance(value, list | tuple | Mapping)):
            raise BadRow(f"unknown column {name!r}; did you mean {meant!r}?")
        else:
            is_number = isinstance(value, bool | int | float) and name not in LETTERS
            notes.append(stranger.note if is_number else stranger.slip)
    if len(names) < len(raw):
        notes.append(f"a column with a name of more than {MAX_NAME} characters is not shown to the model")
    return notes


@lru_cache(maxsize=64)
def strangers(columns: tuple[str, ...], read: frozenset[str]) -> tuple[Stranger, ...]:
    """The columns that are not read, but for bookkeeping."""
    return tuple(_stranger(name) for name in columns if name not in read and name not in BOOKKEEPING)


def unread_keys(found: Mapping[Any, Any], read: Collection[str]) -> Iterator[str]:
    """The keys of a mapping that are not read and say anything, printable."""
    for name, value in found.items():
        if name not in read and is_given(value):
            yield visible(str(name)[:MAX_NAME])


def _stranger(name: str) -> Stranger:
    near = get_close_matches(name.casefold(), MISSPELT, n=1, cutoff=0.85)
    words = {word.casefold() for word in WORD.findall(name)}
    called = next((column for column, those in WORDS.items() if words & those), None)
    meant = near[0] if near else CHOICES[0] if name in LETTERS else called
    column, into = f"the column `{visible(name)}`", CHOICES[0] if meant in CHOICES else meant
    seen = "is not read" if name in MEDIA else "is not shown to the model; only reward functions of your own see it"
    slip = f"{column} is not shown to the model, which may be a mistake: {HELD.get(into or '')} are read from `{into}`"
    return Stranger(name, meant, bool(near), f"{column} {seen}", slip)


def _alike(column: str) -> tuple[str, ...]:
    """The columns any of which takes the place of this one."""
    return CHOICES if column in CHOICES else (column, column.removesuffix("s"))
