"""The documentation does what it says."""

import runpy
from pathlib import Path

from copd.config import described, load_recipe

ROOT = Path(__file__).parent.parent


def test_the_tables_of_the_recipe_are_those_of_its_sections():
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    renewed = runpy.run_path(str(ROOT / "studies" / "recipe_reference.py"))["renewed"]
    assert page == renewed(page), "docs/recipe.md is not what the sections say; `make docs` renews it"


def test_the_recipes_page_has_every_field_once_with_both_kinds_of_tasks():
    rows = "branches.video.task={kind: rows, train: a.jsonl}"
    recipes = [load_recipe("demo", ["lora={rank: 4}", rows]), load_recipe("demo")]
    fields = {
        ".".join("NAME" if part in recipe.branches else part for part in path.split("."))
        for recipe in recipes
        for path, _, _ in described(recipe)
    }
    lines = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8").splitlines()
    for field in fields - {"branches.NAME.task.kind"}:
        assert len([line for line in lines if line.startswith(f"| `{field}` |")]) == 1, field
    assert len([line for line in lines if line.startswith("| `branches.NAME.task.kind` |")]) == 2
