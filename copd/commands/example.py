"""`copd example`: the examples that ship with copd, copied to a folder of the user's, where they run."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from copd.errors import RecipeError, WriteError
from copd.runs.folder import occupied

SHARED = "share/copd/examples"
"""Where a wheel puts the examples, below the folder that it is installed into."""
RECIPE_FILE = "recipe.yaml"
PLAIN = re.compile(r"[\w./-](?:[\w./ -]*[\w./-])?")
"""Names of folders that stand in a recipe without quotes."""


def examples() -> dict[str, Path]:
    """The folder of each example by its name: of the checkout that copd runs from, else of the installed wheel."""
    checkout = Path(__file__).parents[2] / "examples"
    return _in(checkout) or _in(_of_wheel())


def copy_example(name: str, out: Path) -> list[Path]:
    """Copy an example into a new folder, and let the paths of its recipe lead there. Returns the copied files.

    Raises RecipeError for an unknown example or a folder that holds anything, WriteError if it cannot be written.
    """
    there = examples()
    if name not in there:
        raise RecipeError(f"NAME: no example {name!r}; accepted: {', '.join(sorted(there)) or 'none is installed'}")
    if not PLAIN.fullmatch(out.as_posix()):
        raise RecipeError(
            f"DIR {out}: its recipe would have to quote that; accepted: letters, digits, spaces, and / . _ -"
        )
    if occupied(out):
        raise RecipeError(f"DIR {out}: is not empty; give another folder")
    try:
        shutil.copytree(there[name], out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        recipe = out / RECIPE_FILE
        text = recipe.read_text(encoding="utf-8").replace(f"examples/{name}", out.as_posix())
        recipe.write_text(
            text.replace("here the root of the checkout", "here the one that it was copied from"), "utf-8"
        )
    except OSError as error:
        raise WriteError(f"DIR {out}: cannot be written: {error.strerror or error}") from error
    return sorted(path for path in out.rglob("*") if path.is_file())


def _in(folder: Path | None) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in folder.glob(f"*/{RECIPE_FILE}")} if folder else {}


def _of_wheel() -> Path | None:
    try:
        installed = distribution("copd")
    except PackageNotFoundError:
        return None
    for file in installed.files or ():
        if SHARED in file.as_posix() and file.name == RECIPE_FILE:
            return Path(str(installed.locate_file(file))).resolve().parents[1]
    return None
