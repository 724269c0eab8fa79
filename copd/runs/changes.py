"""What differs between the manifests of two runs."""

from __future__ import annotations

from typing import Any


def differences(path: str, before: Any, now: Any) -> list[str]:
    """Every value that differs between two nested mappings, with its path."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{path} was {before!r} and is now {now!r}"]
    keys = {**before, **now}
    return [change for key in keys for change in differences(f"{path}.{key}", before.get(key), now.get(key))]
