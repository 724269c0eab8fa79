"""Where two nested values differ, and both in few words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LONGEST, BEFORE = 60, 20
"""Most characters shown of a value, and how many of them stand before the first place where two values differ."""


def differences(a: Any, b: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """The places, in order, at which two nested values differ: the keys that lead there, and both values.

    A key that only one has counts as one with the value None.
    """
    if _nested(a) and _nested(b):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({**a, **b}, key=lambda key: (isinstance(key, str), key)):
            yield from differences(a.get(key), b.get(key), (*where, key))
    elif a != b:
        yield where, a, b


def _nested(value: Any) -> bool:
    """Whether a value is a list of pairs or mappings, such as merges. Lists of numbers or words are compared whole."""
    return isinstance(value, list) and any(isinstance(part, list | Mapping) for part in value)


def shown(a: Any, b: Any) -> tuple[str, str]:
    """Two different values in words. Of long ones only the surroundings of the first place where they differ."""
    if a is None or b is None:
        return _part(a, 0), _part(b, 0)
    texts = _text(a), _text(b)
    alike = next((at for at, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), min(map(len, texts)))
    start = max(0, alike - BEFORE) if max(map(len, texts)) > LONGEST else 0
    return _part(a, start), _part(b, start)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _part(value: Any, start: int) -> str:
    if value is None:
        return "absent"
    text = _text(value)
    part = text[start : start + LONGEST]
    quoted = repr(part) if isinstance(value, str) else part
    return f"{'...' * (start > 0)}{quoted}{'...' * (start + LONGEST < len(text))}"
