"""Recipe to parts: its tasks, its base, and what a person should be warned of before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from copd.branch import stream
from copd.config import Recipe
from copd.errors import RecipeError
from copd.model.load import compute_on, model_folder
from copd.model.lora import LoraSettings
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Split, Task

PROBED_PROBLEMS = 64
WARMED_UP_AT = {"builtin:digits": 1.0}
"""The share of conflict that a base has seen."""
CHECKPOINTING = (
    "model.gradient_checkpointing: log-probs take the plain path, a prompt computed again for each of its rows; "
    "sampling keeps the shared prefix where the model bears it"
)


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


def branch_policy(recipe: Recipe, base: Policy, name: str) -> Policy:
    """The policy of a new branch: an adapter on the base itself, or a copy of the base on the branch's device.

    Raises RecipeError for targets of the adapter that the model lacks, ModelFolderError for a device that is not there.
    """
    if recipe.lora is not None:
        settings = LoraSettings(**recipe.lora.model_dump())
        return base.with_adapter(name, settings, stream(recipe.seed, name, "lora", 0).initial_seed())
    own = recipe.branches[name].device if name in recipe.branches else None
    if own is None:
        return base.clone()
    device, autocast = compute_on(own, recipe.model.dtype, f"branches.{name}.device")
    return base.clone(device=device, autocast=autocast)


def make_tasks(recipe: Recipe) -> dict[str, Task]:
    """The task of every branch of the recipe, by the branch's name."""
    return {
        name: Digits(**branch.task.model_dump(exclude={"kind"}), seed=recipe.seed)
        for name, branch in recipe.branches.items()
    }


def check_problems(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> list[str]:
    """Look at the first problems of every task before anything is trained; warnings about the path taken.

    Raises RecipeError naming the branch whose prompts hold pictures that the model does not take, or are, with a
    response, longer than the model's context; ModelFolderError for a model that is computed wrongly.
    """
    warnings = [CHECKPOINTING] if policy.gradient_checkpointing else []
    context = policy.context
    for name, task in tasks.items():
        problems = [task.problem(split, i) for split in Split for i in range(PROBED_PROBLEMS)]
        kinds = policy.encoder.family.kinds
        if strangers := sorted({problem.kind for problem in problems} - set(kinds)):
            raise RecipeError(
                f"branches.{name}.task: its problems hold {strangers[0]}; the model of model.path takes "
                f"{' and '.join(kinds)} only"
            )
        longest = max(policy.encoder.lengths(problems))
        if context is not None and longest + max_new_tokens > context:
            raise RecipeError(
                f"branches.{name}.task: a prompt has {longest} tokens; with sampling.max_new_tokens={max_new_tokens} "
                f"that is more than the model's context of {context}"
            )
        if warning := settle_path(policy, problems[:3]):
            warnings.append(f"branches.{name}: {warning}")
    return warnings


def conflict_warnings(recipe: Recipe) -> list[str]:
    """A warning for every field whose share of conflict is not the one that the base was warmed up at."""
    seen = WARMED_UP_AT.get(recipe.model.path)
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in ((name, branch.task.conflict) for name, branch in recipe.branches.items())
        if seen is not None and share != seen
    ]
