"""Whole files: digests, atomic replacement, and the names of files of the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from copd.errors import WriteError

HUB = "hub:"
"""Prefix of a data set of the hub in the place of a file: hub:OWNER/NAME[/FILE]."""
PASSING = ".passing-"
"""What the names of folders begin with that are needed for a while."""
COMMIT = r"[0-9a-f]{40}"
"""Pattern of a commit, the only revision that is fetched from the hub."""
REVISION = r"^\w[\w.-]*(?:/\w[\w.-]*){0,4}$"
"""Pattern of a commit, branch or tag."""


_mask = os.umask(0o022)
os.umask(_mask)


def with_usual_modes(folder: Path) -> None:
    """Give weight files the mode of any new file; safetensors makes them readable by their owner only."""
    for file in folder.glob("*.safetensors"):
        with suppress(OSError):  # some mounted file systems have no modes
            file.chmod(0o666 & ~_mask)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Return once a file or folder, as it was written, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def passing_folder(root: Path, given_as: str | None = None) -> Iterator[Path]:
    """A new folder in `root` for files that are needed for a while, removed at the end of the block.

    Raises WriteError, naming `given_as` or else `root`, if there can be none.
    """
    try:
        folder = TemporaryDirectory(prefix=PASSING, dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise WriteError(f"{given_as or root}: cannot be written: {error.strerror or error}") from error
    with folder as name:
        yield Path(name)


def remove_passing_folders(root: Path) -> None:
    """Remove the folders of `passing_folder` that killed processes have left in `root`."""
    for left in root.glob(f"{PASSING}*"):
        rmtree(left, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Write a whole file atomically: a crash leaves the old file, the new file or none, never a part.

    Raises WriteError naming the file if it cannot be written.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """`replace_text` for bytes."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
