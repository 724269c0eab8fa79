"""Numbers as people write them."""

from __future__ import annotations

import time

GIB = 2**30


def number(value: float) -> str:
    """A number to three digits, thousands apart: 1,234, 12.3, 0.0456."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time for a person: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """A time that was estimated: no finer than the estimate."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def clock() -> str:
    """The time of day."""
    return time.strftime("%H:%M:%S")
