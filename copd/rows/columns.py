"""The columns of a row that go with its problem, for a user's reward function that wants more than the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from copd.errors import visible

MAX_COLUMNS_BYTES = 2**20
"""Most bytes of one row's columns as JSON, names included."""
MEDIA = frozenset({"image", "images", "video", "videos"})


def columns_of(raw: Mapping[str, Any]) -> str:
    """The columns of a row as the file has it, without media: a JSON object.

    Columns that JSON cannot hold (bytes, dates) are left out, and so are those that would exceed `MAX_COLUMNS_BYTES`.
    """
    return json.dumps(_held(raw))


def left_out(raw: Mapping[str, Any]) -> list[str]:
    """The names of columns that `columns_of` leaves out, printable, but for media."""
    return [visible(name[:64]) for name in sorted(raw.keys() - _held(raw).keys() - MEDIA)]


def _held(raw: Mapping[str, Any]) -> dict[str, Any]:
    found, room = {}, MAX_COLUMNS_BYTES
    for name, value in raw.items():
        size = 0 if name in MEDIA else _json_bytes({name: value})
        if 0 < size <= room:
            found[name] = value
            room -= size
    return found


def _json_bytes(value: Any) -> int:
    """The size of a value as JSON; 0 if JSON cannot hold it."""
    try:
        return len(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return 0
