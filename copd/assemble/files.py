"""The files that a recipe names, looked for before PyTorch is loaded. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from copd.errors import DataError
from copd.recipe.model import Recipe
from copd.recipe.task_sections import RowsTask
from copd.rows.opening import check_file
from copd.system.files import HUB
from copd.types import Split


def check_files(recipe: Recipe) -> None:
    """Raises DataError with a line for each file of rows that is missing or cannot be one. The hub is not asked."""
    wrong = []
    for field, name in _named(recipe):
        try:
            check_file(Path(name), name)
        except DataError as error:
            wrong.append(f"{field}: {error}")
    if wrong:
        raise DataError("\n".join(wrong))


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The path of a field and each file on this machine that it names."""
    for branch, section in recipe.branches.items():
        if isinstance(section.task, RowsTask):
            for split in Split:
                for name in getattr(section.task, split.value) or ():
                    if not name.startswith(HUB):
                        yield f"branches.{branch}.task.{split.value}", name
