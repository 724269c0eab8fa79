"""The commands `copd recipe ...`: the recipes that ship, and what a recipe says."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from copd.cli.arguments import Overrides, RecipeName, recipe_and_changes

recipes = typer.Typer(help="Recipes: what can be set, and what it means.", no_args_is_help=True)


@recipes.command("list")
def names() -> None:
    """List the recipes that ship with copd, each with its first line."""
    from copd.recipe.reading import builtin_recipes, recipe_text

    for name in builtin_recipes():
        first = recipe_text(name).partition("\n")[0].lstrip("# ")
        Console().print(f"{name}: {first}", markup=False, highlight=False, soft_wrap=True)


@recipes.command("show")
def show(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Show its YAML, to be edited: as it stands, or with the changes.")
    ] = False,
) -> None:
    """Show every field of a recipe, by default of the demo, with its value and meaning, or its YAML."""
    from copd.recipe.reading import described, load_recipe, yaml_of

    named, changes = recipe_and_changes(recipe, overrides)
    source = named or "demo"
    settings = load_recipe(source, changes)
    if as_yaml:
        print(yaml_of(source, changes), end="")
        return
    table = Table()
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for path, value, meaning in described(settings):
        table.add_row(path, escape(value), escape(meaning))
    Console().print(table)
