"""Co-Evolving Policy Distillation (arXiv 2604.27083): several reasoning skills into one model.

Read the package in this order: `types` (what travels), `algorithm` (Algorithm 1), `maths/` (every equation), `branch`
(what a branch does with them), `model/` (how a model is called), `run` (recipe to run folder).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copd.config import Recipe

__version__ = "0.1.0"


def train(recipe: Recipe, out: str | Path | None = None, *, resume: bool = False) -> Path:
    """Run a recipe to the end and return its run folder (`copd.run.train`)."""
    from copd.run import train as run

    return run(recipe, out, resume=resume)
