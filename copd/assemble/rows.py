"""A branch's section on rows, made into a task on the user's files."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.recipe.task_sections import RowsTask
from copd.rewards.answers import final_answer
from copd.rewards.grading import OURS
from copd.rewards.verifiers import letter, misread
from copd.rows.check import ANSWERED
from copd.rows.formats import RowRules
from copd.rows.media import MediaRules
from copd.rows.opening import Settings
from copd.rows.rows import Index, Rows
from copd.rows.template import HIDDEN, columns_in, compile_template
from copd.types import Split


def make_rows(
    name: str,
    section: RowsTask,
    seed: int,
    verifiers: Collection[str],
    index: Index | None = None,
    answer_form: str = "boxed",
) -> Rows:
    """The task of a branch on rows. Every row is read and checked, except for its media.

    `verifiers` are the recipe's own. `index`: from a process that has read the rows. `answer_form`: the recipe's.

    Raises DataError naming file and line, RecipeError for a prompt template that cannot be used.
    """
    return Rows(
        name,
        {Split.TRAIN: section.train, Split.VALIDATION: section.validation, Split.TEST: section.test},
        settings_of(section, f"branches.{name}.task", verifiers, answer_form),
        seed=seed,
        shares={Split.VALIDATION: section.validation_share, Split.TEST: section.test_share},
        index=index,
    )


def rules_of(answer_form: str, **rules: Any) -> RowRules:
    """Rules for rows whose answers responses give in this form. `rules`: other fields of `RowRules`."""
    return RowRules(
        boxed_answer=partial(final_answer, finished=True),
        misread=partial(ungradable, answer_form),
        letter=letter,
        **rules,
    )


def ungradable(answer_form: str, verifier: str, answer: str) -> str | None:
    """Why a verifier of ours would find every response wrong, or None.

    The right response is read as the grader reads it: the final answer in it must be the reference.
    """
    if reason := misread(verifier, answer):
        return reason
    if answer.isalnum():
        return None
    right = ANSWERED[answer_form].format(answer)
    found = final_answer(right, finished=True, form=answer_form)
    if found == answer:
        return None
    read = "has no final answer" if found is None else f"has the final answer {found[:40]!r}"
    return f"a response that ends like {right[:80]} {read}"


def settings_of(section: RowsTask, given_as: str, verifiers: Collection[str], answer_form: str = "boxed") -> Settings:
    """How to read the rows of a section.

    `given_as` is its path in messages; `verifiers` are the recipe's own, and so is `answer_form`.
    """
    template, known = section.prompt_template, OURS | set(verifiers)
    hidden = HIDDEN | {name for ours, name in section.columns.items() if ours == "answer"}
    rules = rules_of(
        answer_form,
        verifiers=known,
        verifier=section.verifier,
        system_prompt=section.system_prompt,
        template=None if template is None else compile_template(template, f"{given_as}.prompt_template", hidden),
        shown=frozenset() if template is None else columns_in(template, hidden),
        own=frozenset(verifiers),
    )
    if section.verifier is not None and section.verifier not in known:
        raise RecipeError(
            f"{given_as}.verifier: unknown verifier {section.verifier!r}; accepted: {', '.join(sorted(known))}"
        )
    return Settings(
        rules=rules,
        format=section.format,
        columns={str(ours): theirs for ours, theirs in section.columns.items()},
        data_root=None if section.data_root is None else Path(section.data_root),
        revision=section.revision,
        media=MediaRules(**section.media.model_dump()),
        chat_template_kwargs=section.chat_template_kwargs,
        bad_rows=section.bad_rows,
        max_bad_rows=section.max_bad_rows,
    )


def rows_section(recipe: Recipe, branch: str) -> RowsTask:
    """A branch's section on rows. Raises RecipeError for a branch that does not exist or has no rows."""
    section = recipe.branches[branch].task if branch in recipe.branches else None
    if not isinstance(section, RowsTask):
        there = ", ".join(_on_rows(recipe)) or "none"
        raise RecipeError(f"--branch {branch}: no branch of kind rows; there is {there}")
    return section


def only_rows_branch(recipe: Recipe) -> str:
    """The branch on rows of a recipe that has one. Raises RecipeError for one that has none, or several."""
    there = _on_rows(recipe)
    if len(there) == 1:
        return there[0]
    if not there:
        raise RecipeError("--recipe: has no branch of kind rows; give one that has, or a FILE alone")
    raise RecipeError(f"--branch: missing; there is {', '.join(there)}")


def _on_rows(recipe: Recipe) -> list[str]:
    return [name for name, each in recipe.branches.items() if isinstance(each.task, RowsTask)]
