"""Data sets of the Hugging Face hub, as files of one commit.

The commit is pinned by its 40 digits and nothing else is ever read: what the cache holds of another commit does not
count, also without a network. The files are read like local ones, and no code of the data set's is run. Images and
videos must stand in the rows as bytes, unless the task has a data root of its own.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from copd.errors import DataError, first_line
from copd.tasks.media import DataRoot

SCHEME = "hub:"
NAMES_OF_SPLIT = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""How the file names of a split begin, where no file is named."""
SUFFIXES = (".parquet", ".jsonl")


def hub_files(given: str, split: str, revision: str | None) -> tuple[list[Path], DataRoot]:
    """Local copies of the files that `hub:OWNER/NAME[/FILE]` names, and where paths in their rows start.

    FILE may be a pattern such as data/train-*.parquet; without it, all .parquet and .jsonl files that begin with the
    split's name. Raises DataError for a revision that is not a commit, for files that are not there, and where the hub
    cannot be reached and the cache does not hold the commit.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise DataError(f"{given}: revision must pin a commit, 40 hexadecimal digits; found {revision!r}")
    owner, name, *rest = given.removeprefix(SCHEME).split("/", 2)
    patterns = rest or [
        f"{place}{start}*{s}" for place in ("", "*/") for start in NAMES_OF_SPLIT[split] for s in SUFFIXES
    ]
    snapshot = _snapshot(given, f"{owner}/{name}", str(revision), patterns)
    found = sorted(path for path in snapshot.rglob("*") if _matches(path.relative_to(snapshot), patterns))
    if not found:
        raise DataError(f"{given}: commit {revision} has no file {' or '.join(patterns)}; name one: {given}/FILE")
    return found, DataRoot(snapshot, snapshot.parent.parent)


def _matches(path: Path, patterns: list[str]) -> bool:
    return any(fnmatch(path.as_posix(), pattern) for pattern in patterns)


def _snapshot(given: str, repository: str, revision: str, patterns: list[str]) -> Path:
    """The cache's folder of the commit, fetched where the hub can be reached."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the network, the hub, the cache: each library beneath has its own
        raise DataError(f"{given}: commit {revision} cannot be had: {first_line(error)}") from None
    if folder.name != revision:
        raise DataError(f"{given}: the hub gave commit {folder.name} for {revision}")
    return folder
