"""The pictures and videos that a row names or holds, as references. Nothing here reads a file or decodes a picture."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from copd.errors import BadRow, visible
from copd.rows.media import Reference
from copd.rows.prompts import kind_of
from copd.rows.unread import unread_keys

MAX_MEDIA = 128
"""Most images, and most videos, of one row."""
BASE64 = re.compile(r"\s*(?:data:|base64,|iVBORw0KGgo|/9j/|UklGR|R0lGOD|SUkqA|TU0AK|Qk.{6}AAAA)")
"""How a data URL begins, and PNG, JPEG, WEBP, GIF, TIFF and BMP in base64."""
BYTES_AS_TEXT = re.compile(r"""\s*b(?:'.*'|".*")\s*""", re.DOTALL)
HOLDERS = ("bytes", "path", "image", "video")
"""The keys of a mapping that may hold a picture or a video. The first one counts."""
READ_BESIDE = {*HOLDERS, "type", "fps"}
"""What is read of a picture or video that is a mapping; `type` says what the key says."""
KEPT_BESIDE = {"bytes": ("path",)}
"""What stands beside a holder by custom and is not read: the name of the file that bytes came from."""

Video = Reference | tuple[Reference, ...]
"""A file, or frames."""


class Media(NamedTuple):
    """The media of a row, and the frames per second of its videos that are given as frames."""

    images: tuple[Reference, ...]
    videos: tuple[Video, ...]
    fps: float | None


def media_of(fields: Mapping[str, Any], notes: list[str]) -> Media:
    """The media of a row with the native columns. Raises BadRow."""
    images = tuple(_reference(item, "images", i, notes) for i, item in enumerate(_list(fields, "images")))
    given = _list(fields, "videos")
    videos = tuple(_video(item, i, notes) for i, item in enumerate(given))
    fps = _fps(fields.get("fps"), _rate(given))
    if fps is not None and not videos:
        notes.append("fps is not read in a row without videos")
    elif fps is not None and not all(isinstance(video, tuple) for video in videos):
        notes.append("fps beside a video file is not read; media.fps in the recipe samples it")
    return Media(images, videos, fps)


def _list(fields: Mapping[str, Any], column: str) -> Sequence[Any]:
    value = fields.get(column)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise BadRow(f"{column} is {kind_of(value)}; accepted: a list")
    if len(value) > MAX_MEDIA:
        raise BadRow(f"{len(value)} {column}; accepted: at most {MAX_MEDIA}")
    return value


def _video(value: Any, index: int, notes: list[str]) -> Video:
    frames = value.get("video") if isinstance(value, Mapping) else value
    if not isinstance(frames, list | tuple):
        return _reference(value, "videos", index, notes)
    if not frames:
        raise BadRow(f"videos[{index}] holds no frames")
    if isinstance(value, Mapping):
        _note_unread(value, "videos", "video", notes)
    return tuple(_reference(frame, f"videos[{index}]", i, notes) for i, frame in enumerate(frames))


def _reference(value: Any, column: str, index: int, notes: list[str]) -> Reference:
    """A path, bytes, or a mapping that holds one of them: {"bytes": ..., "path": ...}, {"image": ...}, {"video": ...}.

    In JSON bytes are written in base64, or as a data URL.
    """
    where = f"{column}[{index}]"
    if isinstance(value, Mapping):
        holder = next((key for key in HOLDERS if value.get(key) is not None), None)
        if holder is None:
            keys = visible(", ".join(str(key)[:20] for key in [*value][:10])) or "none"
            raise BadRow(f"{where} holds none of {', '.join(HOLDERS)}; its keys: {keys}")
        _note_unread(value, column, holder, notes)
        value = value[holder]
        if holder == "bytes" and isinstance(value, str):
            return _base64(value, f"{where}.bytes")
    if isinstance(value, str) and BASE64.match(value):
        return _base64(value, where)
    if isinstance(value, str) and BYTES_AS_TEXT.fullmatch(value):
        raise BadRow(f"{where} is bytes as Python prints them; accepted: a path, or bytes in base64")
    if not isinstance(value, str | bytes):
        raise BadRow(f"{where} is {kind_of(value)}; accepted: a path, or bytes")
    return value


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRow(f"{where} is not base64") from None


def _note_unread(value: Mapping[Any, Any], column: str, holder: str, notes: list[str]) -> None:
    """Note what stands beside a picture or video and is not read, such as bounds of other libraries."""
    column = column.partition("[")[0]
    notes += [
        f"{name} beside {column} is not read; media in the recipe has bounds for all"
        for name in unread_keys(value, READ_BESIDE)
    ]
    notes += [
        f"{key} beside {holder} in {column} is not read"
        for key in HOLDERS
        if key not in (holder, *KEPT_BESIDE.get(holder, ())) and value.get(key) is not None
    ]


def _rate(videos: Sequence[Any]) -> Any:
    """The frame rate that stands beside every video of a row; None without one. Raises BadRow for different ones."""
    rates = [video.get("fps") if isinstance(video, Mapping) else None for video in videos]
    if any(rate != rates[0] for rate in rates):
        raise BadRow("its videos have different fps; accepted: one for all")
    return rates[0] if rates else None


def _fps(own: Any, beside: Any) -> float | None:
    """The frame rate that a row gives in its own column or beside its videos. Raises BadRow if they differ."""
    value = beside if own is None else own
    if own is not None and beside is not None and own != beside:
        raise BadRow(f"fps is {str(own)[:40]}, beside its videos {str(beside)[:40]}; accepted: one for all")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"fps is {kind_of(value)}, {str(value)[:40]!r}; accepted: a number above 0")
    if not 0 < value <= sys.float_info.max:
        raise BadRow(f"fps is {str(value)[:40]}; accepted: a number above 0")
    return float(value)
