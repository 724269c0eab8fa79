"""Checks of users' rows without a run, by file or by the branch of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from copd.assemble.rows import rows_section, rules_of, settings_of
from copd.recipe.model import Recipe
from copd.rewards.grading import OURS
from copd.rows.check import UNNAMED, Report, check_rows
from copd.rows.opening import Settings, open_files
from copd.types import Split


def check_file(
    file: str,
    say: Callable[[str], None],
    *,
    format_name: str = "auto",
    root: str | None = None,
    media: bool = True,
    most: int | None = None,
) -> list[Report]:
    """Check the rows of one file without a recipe. A row need not name a verifier. See `copd.rows.check`."""
    rules = rules_of("boxed", verifiers=OURS, verifier=UNNAMED)
    settings = Settings(rules=rules, format=format_name, data_root=None if root is None else Path(root))
    sources = open_files([file], Split.TRAIN.value, settings)
    return [check_rows(sources, settings, media=media, say=say, most=most)]


def check_branch(
    recipe: Recipe,
    branch: str,
    say: Callable[[str], None],
    *,
    file: str | None = None,
    media: bool = True,
    most: int | None = None,
) -> list[Report]:
    """Check one file as a branch of a recipe reads it, or the files of each of the branch's splits.

    Raises RecipeError for a branch that does not exist or has no rows.
    """
    section = rows_section(recipe, branch)
    settings = settings_of(section, f"branches.{branch}.task", recipe.verifiers, recipe.reward.answer_form)
    files = {split.value: getattr(section, split.value) for split in Split}
    if file is not None:
        files = {Split.TRAIN.value: [file]}
    return [
        check_rows(
            open_files(names, split, settings),
            settings,
            media=media,
            say=say,
            most=most,
            answer_form=recipe.reward.answer_form,
        )
        for split, names in files.items()
        if names
    ]
