"""Data sets of the Hugging Face hub, as files of one commit.

One commit is read, and no other, even from the cache and without a network. The files are read like
local ones, and no code of the data set is run. Rows must hold images and videos as bytes, unless the task has its own
data root.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from copd.errors import CopdError, DataError, first_line
from copd.rows.media import DataRoot
from copd.system.files import HUB
from copd.system.hub import commit_of

NAMES_OF_SPLIT = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Beginnings of a split's file names, if no file is named: the whole name, or up to one of `SEPARATORS`."""
SEPARATORS = "[-_.0-9]"
SUFFIXES = (".parquet", ".jsonl")


def hub_files(given: str, split: str, revision: str | None) -> tuple[list[Path], DataRoot]:
    """Local copies of the files that `hub:OWNER/NAME[/FILE]` names, and where paths in their rows start.

    FILE may be a pattern such as data/train-*.parquet. Without it, all .parquet and .jsonl files with the split's name
    are taken; they must lie in one folder. `revision` is a commit, or a branch or tag that stands for one now. Raises
    DataError for a name of another form, for files that are missing or lie in several folders, and for a revision that
    neither the hub nor the cache gives.
    """
    parts = given.removeprefix(HUB).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise DataError(f"{given}: accepted: {HUB}OWNER/NAME or {HUB}OWNER/NAME/FILE")
    if not revision:
        raise DataError(f"{given}: revision is missing; give a commit, branch or tag, for instance main")
    owner, name, *rest = parts
    try:
        revision = commit_of(f"{owner}/{name}", revision, "dataset")
    except CopdError as error:
        raise DataError(f"{given}: {error}") from error
    begun = [f"{start}{more}" for start in NAMES_OF_SPLIT[split] for more in ("", f"{SEPARATORS}*")]
    names = [f"{start}{suffix}" for start in begun for suffix in SUFFIXES]
    patterns = rest or [f"{place}{each}" for place in ("", "*/") for each in names]
    snapshot = _snapshot(given, f"{owner}/{name}", revision, patterns)
    there = sorted(path for path in snapshot.rglob("*") if _matches(path.relative_to(snapshot).as_posix(), patterns))
    found = there if rest else [path for path in there if _matches(path.name, names)]
    if not found:
        raise DataError(f"{given}: commit {revision} has no file {' or '.join(patterns)}; name one: {given}/FILE")
    folders = sorted({path.parent.relative_to(snapshot).as_posix() for path in found})
    if len(folders) > 1 and not rest:
        raise DataError(
            f"{given}: {split} has files in the folders {', '.join(folders)}; name one, such as "
            f"{given}/{found[-1].relative_to(snapshot).as_posix()}, or a pattern"
        )
    return found, DataRoot(snapshot, snapshot.parent.parent)


def repository_of(given: str) -> str:
    """OWNER/NAME of `hub:OWNER/NAME[/FILE]`."""
    return "/".join(given.removeprefix(HUB).split("/")[:2])


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _snapshot(given: str, repository: str, revision: str, patterns: list[str]) -> Path:
    """The cache's folder of the commit, fetched if the hub can be reached."""
    from huggingface_hub import snapshot_download

    from copd.system.fetching import Fetching

    try:
        folder = Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=patterns, tqdm_class=Fetching
            )
        )
    except Exception as error:  # network, hub and cache: each library beneath has its own errors
        raise DataError(f"{given}: commit {revision} cannot be had: {first_line(error)}") from None
    if folder.name != revision:
        raise DataError(f"{given}: the hub gave commit {folder.name} for {revision}")
    return folder
