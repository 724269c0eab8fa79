"""How many problems evaluation asks, once it is known how many there are. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from copd.recipe.fields import Count
from copd.recipe.sections import EvaluationSection

MOST = {"problems": 500, "validation_problems": 100, "behaviour_problems": 32}
"""What a size is at most that a recipe leaves out."""
FEW = 30
"""An accuracy on fewer problems says little: one problem is more than three points of it."""


class Evaluation(EvaluationSection):
    """The section with all sizes."""

    problems: Count
    validation_problems: Count
    behaviour_problems: Count


def sized(section: EvaluationSection, there: Mapping[str, int | None]) -> Evaluation:
    """The section with a size in the place of each null: `MOST`, or fewer if fewer problems are `there`.

    `there` is by field, and None where problems are made as they are asked for.
    """
    sizes = {name: most if there.get(name) is None else min(most, there[name] or 0) for name, most in MOST.items()}
    given = {name: value for name, value in section.model_dump().items() if value is not None}
    return Evaluation(**(sizes | given))
