"""What a page does not tell: where files of the user's machine lie."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from markupsafe import escape

BEFORE = r"(?<![\w./~-])"
"""A path begins behind it, not in the middle of another."""


def absolute_paths(value: Any) -> Iterator[str]:
    """The absolute paths among the texts of nested values, such as those of a recipe."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from absolute_paths(item)
    elif isinstance(value, str) and PurePath(value).is_absolute():
        yield value


def paths_of_command(command: str) -> Iterator[str]:
    """The absolute paths in a command line: words, or the values of overrides."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    yield from absolute_paths([part for word in words for part in (word, word.partition("=")[2])])


def without_folders(page: str, paths: Iterable[str]) -> str:
    """The page with the last name alone of each of these paths, and of what lies beside or below; the home is `~`."""
    folders = {str(PurePath(path).parent) for path in paths}
    for folder in sorted(folders - {"/"}, key=len, reverse=True):
        page = re.sub(rf"{BEFORE}{re.escape(str(escape(folder)))}/", "", page)
    home = Path.home()
    if len(home.parts) < 2:  # the root is the beginning of every path
        return page
    return re.sub(rf"{BEFORE}{re.escape(str(escape(home)))}(?![\w.-])", "~", page)
