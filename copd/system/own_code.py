"""A user's own code: what a recipe names as path/file.py:NAME, found with its hash, and run only as it was hashed.

Imports no torch: grading processes use it too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from copd.errors import RecipeError
from copd.system.signals import Ended


class OwnCode(NamedTuple):
    """A function or a class of a user's file, and the sha256 of the file."""

    path: str
    name: str
    sha256: str


_running: list[str] = []


def find_code(source: str, field: str) -> OwnCode:
    """The code that a recipe's `field` names as file.py:NAME, relative to the current directory. Nothing is run.

    Raises RecipeError for a missing file.
    """
    path, _, name = source.rpartition(":")
    if not Path(path).is_file():
        raise RecipeError(f"{field}: no file {path!r}; write path/file.py:NAME")
    return OwnCode(str(Path(path).resolve()), name, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def found_code(sources: Mapping[str, str]) -> dict[str, OwnCode]:
    """`find_code` of each field."""
    return {field: find_code(source, field) for field, source in sources.items()}


def load_code(code: OwnCode) -> Any:
    """Run the user's file as a module of its own, once per process, and return what is called `name` in it.

    Raises ValueError if the file has changed or has no such function or class, and whatever the file raises.
    """
    path = Path(code.path)
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != code.sha256:
        raise ValueError(f"{path} has changed since the start of the run")
    named = hashlib.sha256(str(path).encode() + source).hexdigest()
    module = sys.modules.get(f"copd_own_{named}") or _run(f"copd_own_{named}", path, source)
    found = getattr(module, code.name, None)
    if not callable(found):
        raise ValueError(f"{path} has no function or class {code.name!r}")
    return found


def loaded(code: OwnCode, field: str) -> Any:
    """`load_code` for a field of the recipe. Raises RecipeError naming the field and why the code cannot be used."""
    try:
        return load_code(code)
    except Ended:
        raise
    except (Exception, SystemExit) as error:  # a script without a guard may end with sys.exit(0)
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"{field}: {code.path}:{code.name} cannot be used: {type(error).__name__}: {reason}"
        ) from error


def load_named(source: str, field: str) -> Any:
    """What a recipe's `field` names as file.py:NAME, found and loaded at once. Raises RecipeError."""
    return loaded(find_code(source, field), field)


def running() -> str | None:
    """The file of a user's code that is being run at this moment for what is in it; None: none is."""
    return _running[-1] if _running else None


def _run(name: str, path: Path, source: bytes) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    # The import system would read the file again, or cached bytecode.
    code = compile(source, path, "exec", dont_inherit=True)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _told(str(path)):
            exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _told(path: str) -> Iterator[None]:
    _running.append(path)
    try:
        yield
    finally:
        _running.pop()
