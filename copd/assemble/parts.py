"""Recipe to parts: its tasks, its base, and what a person should be warned of before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

from copd.model.load import compute_on, model_folder
from copd.model.policy import Policy
from copd.recipe.model import Recipe
from copd.rewards.grading import Grader


def load_policy(recipe: Recipe, path: str | None = None) -> Policy:
    """The recipe's base, or the model at `path`, as a policy on the recipe's device."""
    device, autocast = compute_on(recipe.model.device, recipe.model.dtype)
    return Policy.from_pretrained(
        model_folder(path) if path else model_folder(recipe.model.path, revision=recipe.model.revision),
        device=device,
        autocast=autocast,
        micro_batch_tokens=recipe.model.micro_batch_tokens,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
    )


def make_grader(recipe: Recipe, warn: Callable[[str], None]) -> Grader:
    """The recipe's grader, to be closed by the caller; raises RecipeError for a verifier that cannot be used."""
    return Grader(recipe.verifiers, **recipe.reward.model_dump(), warn=warn)
