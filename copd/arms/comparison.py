"""The file of a comparison: a recipe, and arms that differ from it in their overrides. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from copd.errors import RecipeError
from copd.recipe.explain import explain
from copd.recipe.fields import Count, Section
from copd.recipe.strict_yaml import parse_yaml

ArmName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,39}$")]
Changes = dict[str, Any]
"""Overrides: `section.field` with its value."""
OWN = (
    "seed",
    "budget",
    "experts",
    *(f"evaluation.{name}" for name in ("split", "problems", "pass_at", "models")),
    *(f"checkpoint.{name}" for name in ("keep_last", "keep_at")),
)
"""Fields that a comparison sets for each job."""
Account = Literal["rollouts", "steps", "critical_path"]


class SearchSection(Section):
    """Settings that every arm may choose, by validation problems and by seeds that the comparison does not use."""

    seeds: tuple[int, ...] = Field((1000,), min_length=1, description="seeds of the search runs, not those of the test")
    problems: Count = Field(300, description="validation problems per capability")
    candidates: dict[ArmName, tuple[Changes, ...]] = Field(
        min_length=1, description="for each arm its candidates; every arm has as many"
    )


class Comparison(Section):
    """Arms that are compared at one budget."""

    title: str = Field("", description="what pages call the comparison; none = they name its arms")
    recipe: str = Field(
        "demo-paper", description="a YAML file, from the folder of this file, or a builtin recipe by name"
    )
    changes: Changes = Field({}, description="overrides for all arms")
    arms: dict[ArmName, Changes] = Field(min_length=1, description="each arm by name, with its overrides")
    references: tuple[str, ...] = Field(
        (), description="arms that the others are compared with; none = the first. R is what the first of them spends"
    )
    accounts: tuple[Account, ...] = Field(
        ("rollouts",),
        min_length=1,
        description="what is equal between arms: rollouts in all, steps of a model, or rollouts on the critical path",
    )
    rollouts: Count = Field(
        description="R: the rollouts that the first reference spends; every account derives from it"
    )
    problems: Count = Field(1000, description="test problems per capability")
    pass_at: tuple[Count, ...] = Field((1, 4), description="values of k of pass@k")
    place: Literal["core", "recipe"] = Field(
        "core",
        description="where a job trains. core: its branches take turns on one core, and there are as many jobs at once "
        "as cores; recipe: on the backend of the recipe, one job after the other",
    )
    search: SearchSection | None = Field(None, description="what arms choose before the test; null = nothing")

    @model_validator(mode="after")
    def _sound(self) -> Comparison:
        if strangers := [name for name in self.references if name not in self.arms]:
            raise ValueError(f".references: no arm {strangers[0]!r}; arms are {', '.join(self.arms)}")
        check_changes(self.changes, ".changes", last=False)
        for name, changes in self.arms.items():
            check_changes(changes, f".arms.{name}", last=True)
        if self.search is None:
            return self
        for name, candidates in self.search.candidates.items():
            for place, changes in enumerate(candidates):
                check_changes(changes, f".search.candidates.{name}.{place}", last=True)
        if strangers := [name for name in self.search.candidates if name not in self.arms]:
            raise ValueError(f".search.candidates: no arm {strangers[0]!r}; arms are {', '.join(self.arms)}")
        counts = {name: len(candidates) for name, candidates in self.search.candidates.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(f".search.candidates: every arm searches as often as the others; found {listed}")
        return self

    @property
    def compared_with(self) -> tuple[str, ...]:
        """The arms that the others are compared with."""
        return self.references or (next(iter(self.arms)),)


def read_comparison(path: Path) -> Comparison:
    """Read a file of a comparison; raises RecipeError naming the file and every faulty key."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a comparison is a mapping with arms, found {type(data).__name__}")
    if "branches" in data and "arms" not in data:
        raise RecipeError(
            f"{path}: a recipe; accepted: a file with `recipe: {path.name}`, rollouts and arms (docs/compare.md); "
            f"`copd train {path}` trains the recipe"
        )
    try:
        found = Comparison.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in explain(error.errors(), Comparison))) from None
    beside = os.path.normpath(path.parent / found.recipe)
    return found.model_copy(update={"recipe": beside}) if os.path.isfile(beside) else found


def as_overrides(changes: Mapping[str, Any]) -> list[str]:
    """The changes as the command line takes them."""
    return [f"{path}={_as_written(value)}" for path, value in changes.items()]


def _as_written(value: Any) -> str:
    """The value as YAML reads it back: a text that YAML takes for something else is quoted. A date is a text again."""
    try:
        plain = isinstance(value, str) and parse_yaml(value, "") == value
    except RecipeError:
        plain = False
    return str(value) if plain else json.dumps(value, default=str)


def check_changes(changes: Mapping[str, Any], where: str, *, last: bool) -> None:
    """Check that no change sets what the comparison itself sets for all arms, so that arms are asked alike.

    `last`: the changes come after those settings, as an arm's do, and a whole section would drop them.

    Raises ValueError naming the field.
    """
    for path, value in changes.items():
        fields = [path, *(f"{path}.{name}" for name in (value if isinstance(value, dict) else ()))]
        taken = [f for f in fields if any(f == own or f.startswith(f"{own}.") for own in OWN)]
        if taken or (last and path == "evaluation"):
            raise ValueError(f"{where}: sets {[*taken, path][0]}, which the comparison sets for all arms; leave it out")
