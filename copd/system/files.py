"""Whole files: their digest, their replacement at once, and how those of the hub are named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

HUB = "hub:"
"""How a data set of the hub is named where a file could be: hub:OWNER/NAME[/FILE]."""
COMMIT = r"[0-9a-f]{40}"
"""Pattern of a revision that pins what is fetched from the hub."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write a whole file at once: after a crash there is the old one, the new one or none, never a part."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """`replace_text` for a file that is not text; an OSError names the file, also where the system does not."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
