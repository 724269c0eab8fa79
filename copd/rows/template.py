"""Prompt templates: Jinja in its sandbox, from the recipe only. The texts of a row are never rendered as templates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from copd.errors import BadRow, RecipeError

HIDDEN = frozenset({"answer", "solution", "reward_model", "extra_info", "ground_truth", "messages"})
"""Columns that would reveal the answer."""


def compile_template(
    source: str, given_as: str, hidden: Collection[str] = HIDDEN
) -> Callable[[str, Mapping[str, Any]], str]:
    """A function from (text of the last user message, the row) to the text that takes its place.

    In the template the text is `prompt`; `content` and `problem` are the same, for templates of EasyR1 and EasyVideoR1.
    The row's other columns have their own names; `hidden` ones, which reveal the answer, are left out. Raises
    RecipeError, naming the field `given_as`, for a template that does not compile or reaches beyond its variables. The
    function raises BadRow if a row lacks a column that the template needs.
    """
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise RecipeError(f"{given_as}: not a Jinja template: {error}") from None

    def render(prompt: str, row: Mapping[str, Any]) -> str:
        columns = {name: value for name, value in row.items() if name not in hidden}
        try:
            return template.render({**columns, "prompt": prompt, "content": prompt, "problem": prompt})
        except SecurityError as error:
            raise RecipeError(f"{given_as}: reaches beyond the variables of a template: {error}") from None
        except Exception as error:  # its expressions can raise anything
            raise BadRow(f"the prompt template fails: {error}") from None

    return render


def columns_in(source: str, hidden: Collection[str] = HIDDEN) -> frozenset[str]:
    """The names of columns that a template, which compiles, reads; `hidden` ones it cannot."""
    return frozenset(meta.find_undeclared_variables(ImmutableSandboxedEnvironment().parse(source))) - {*hidden}
