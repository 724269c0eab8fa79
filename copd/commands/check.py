"""Users' data without a run: what a recipe says about rows, as a task or as a check of their files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from copd.errors import RecipeError
from copd.recipe.reading import Recipe
from copd.recipe.task_sections import RowsTask
from copd.rewards.answers import final_answer
from copd.rewards.grading import OURS
from copd.rewards.verifiers import misread
from copd.rows.check import UNNAMED, Report, check_rows
from copd.rows.formats import RowRules
from copd.rows.media import MediaRules
from copd.rows.rows import Rows, Settings, open_files
from copd.rows.template import compile_template
from copd.types import Split


def make_rows(
    name: str, section: RowsTask, seed: int, verifiers: Collection[str], asked: Mapping[Split, int] | None = None
) -> Rows:
    """The task of a branch on rows: every row is read and checked, media excepted; `verifiers` are the recipe's own.

    `asked`: how many problems of validation and test will be measured.

    Raises DataError naming file and line, RecipeError for a prompt template that cannot be used.
    """
    return Rows(
        name,
        {Split.TRAIN: section.train, Split.VALIDATION: section.validation, Split.TEST: section.test},
        settings_of(section, f"branches.{name}.task", verifiers),
        seed=seed,
        shares={Split.VALIDATION: section.validation_share, Split.TEST: section.test_share},
        asked=asked,
    )


def settings_of(section: RowsTask, given_as: str, verifiers: Collection[str]) -> Settings:
    """How a section wants its rows read. `given_as` is its path in messages, `verifiers` are the recipe's own."""
    template, known = section.prompt_template, OURS | set(verifiers)
    rules = RowRules(
        verifiers=known,
        boxed_answer=partial(final_answer, finished=True),
        verifier=section.verifier,
        system_prompt=section.system_prompt,
        template=None if template is None else compile_template(template, f"{given_as}.prompt_template"),
        misread=misread,
    )
    if section.verifier is not None and section.verifier not in known:
        raise RecipeError(
            f"{given_as}.verifier: unknown verifier {section.verifier!r}; accepted: {', '.join(sorted(known))}"
        )
    return Settings(
        rules=rules,
        format=section.format,
        data_root=None if section.data_root is None else Path(section.data_root),
        revision=section.revision,
        media=MediaRules(**section.media.model_dump()),
        chat_template_kwargs=section.chat_template_kwargs,
        bad_rows=section.bad_rows,
        max_bad_rows=section.max_bad_rows,
    )


def rows_section(recipe: Recipe, branch: str) -> RowsTask:
    """What a recipe says of a branch's rows; raises RecipeError for a branch that is not there or has no rows."""
    section = recipe.branches[branch].task if branch in recipe.branches else None
    if not isinstance(section, RowsTask):
        there = [name for name, each in recipe.branches.items() if isinstance(each.task, RowsTask)]
        raise RecipeError(f"--branch {branch}: no branch of kind rows; there is {', '.join(there) or 'none'}")
    return section


def check_file(
    file: str,
    say: Callable[[str], None],
    *,
    format_name: str = "auto",
    root: str | None = None,
    media: bool = True,
    most: int | None = None,
) -> list[Report]:
    """Check the rows of one file without a recipe; a row need not name a verifier. See `copd.rows.check`."""
    rules = RowRules(OURS, partial(final_answer, finished=True), verifier=UNNAMED, misread=misread)
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

    Raises RecipeError for a branch that is not there or has no rows.
    """
    section = rows_section(recipe, branch)
    settings = settings_of(section, f"branches.{branch}.task", recipe.verifiers)
    files = {split.value: getattr(section, split.value) for split in Split}
    if file is not None:
        files = {Split.TRAIN.value: [file]}
    return [
        check_rows(open_files(names, split, settings), settings, media=media, say=say, most=most)
        for split, names in files.items()
        if names
    ]
