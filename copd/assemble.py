"""Recipe to parts: its tasks, its base, and what a person should be warned of before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from copd.config import Recipe
from copd.errors import RecipeError
from copd.model.load import compute_on, model_folder
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Split, Task

PROBED_PROBLEMS = 64
WARMED_UP_AT = {"builtin:digits": 1.0}
"""The share of conflict that a base has seen."""


def load_policy(recipe: Recipe, path: str | None = None) -> Policy:
    """The recipe's base, or the model at `path`, as a policy on the recipe's device."""
    device, autocast = compute_on(recipe.model.device, recipe.model.dtype)
    return Policy.from_pretrained(
        model_folder(path or recipe.model.path),
        device=device,
        autocast=autocast,
        micro_batch_tokens=recipe.model.micro_batch_tokens,
    )


def make_tasks(recipe: Recipe) -> dict[str, Task]:
    """The task of every branch of the recipe, by the branch's name."""
    return {
        name: Digits(**branch.task.model_dump(exclude={"kind"}), seed=recipe.seed)
        for name, branch in recipe.branches.items()
    }


def check_problems(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> list[str]:
    """Look at the first problems of every task before anything is trained; warnings about the path taken.

    Raises RecipeError naming the branch whose prompts, with a response, are longer than the model's context.
    """
    warnings = []
    context = policy.context
    for name, task in tasks.items():
        problems = [task.problem(split, i) for split in Split for i in range(PROBED_PROBLEMS)]
        longest = max(policy.encoder.lengths(problems))
        if longest + max_new_tokens > context:
            raise RecipeError(
                f"branches.{name}.task: a prompt has {longest} tokens; with sampling.max_new_tokens={max_new_tokens} "
                f"that is more than the model's context of {context}"
            )
        if warning := settle_path(policy, problems[:3]):
            warnings.append(f"branches.{name}: {warning}")
            break
    return warnings


def check_overlap(recipe: Recipe, policy: Policy) -> None:
    """Raises RecipeError where a k of the top-k overlap is more than the tokens that the policy may emit."""
    if max(recipe.evaluation.overlap_k) > policy.allowed_tokens:
        raise RecipeError(
            f"evaluation.overlap_k: {max(recipe.evaluation.overlap_k)} is larger than the "
            f"{policy.allowed_tokens} tokens of the masked vocabulary"
        )


def conflict_warnings(recipe: Recipe) -> list[str]:
    """A warning for every field whose share of conflict is not the one that the base was warmed up at."""
    seen = WARMED_UP_AT.get(recipe.model.path)
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in ((name, branch.task.conflict) for name, branch in recipe.branches.items())
        if seen is not None and share != seen
    ]
