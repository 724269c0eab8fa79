"""Recipe to parts: its tasks, its base, and what a person should be warned of before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from copd.branch import Branch, ObjectiveSettings, Reference, SamplingSettings
from copd.config import Recipe
from copd.errors import RecipeError
from copd.maths.distill import clamped_delta, masked_delta, proximal_delta
from copd.model.learner import Learner
from copd.model.load import compute_on, model_folder
from copd.model.parity import settle_path
from copd.model.parts import Aggregate, Delta, over_constant, over_sequences, over_tokens
from copd.model.policy import Policy
from copd.rewards.grading import Grader
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split, Task

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


def make_learner(recipe: Recipe, policy: Policy) -> Learner:
    """The optimizer of a branch, with the clips, the aggregation and the passes of the recipe."""
    aggregations: dict[str, Callable[[Rollouts], Aggregate]] = {
        "sequence": over_sequences,
        "token": over_tokens,
        "constant": partial(over_constant, max_new_tokens=recipe.sampling.max_new_tokens),
    }
    return Learner(
        policy,
        **recipe.optimizer.model_dump(),
        clip_low=recipe.grpo.clip_low,
        clip_high=recipe.grpo.clip_high,
        passes=recipe.grpo.passes,
        aggregate=aggregations[recipe.grpo.aggregation],
    )


def make_objectives(recipe: Recipe, base: Policy) -> ObjectiveSettings:
    """What the parts of an update are made with; the base, which is never trained, is the reference of the KL."""
    grpo, opd = recipe.grpo, recipe.opd
    deltas: dict[str, Delta] = {
        "clamp": partial(clamped_delta, bound=opd.clamp),
        "mask": partial(masked_delta, bound=opd.clamp),
        "proximal": partial(proximal_delta, teacher_share=opd.teacher_share),
    }
    return ObjectiveSettings(
        delta=deltas[opd.bound],
        normalize_std=grpo.normalize_std,
        mask_truncated=grpo.mask_truncated,
        reference=Reference(base, grpo.kl_coefficient) if grpo.kl_coefficient else None,
    )


def make_grader(recipe: Recipe, warn: Callable[[str], None]) -> Grader:
    """The recipe's grader, to be closed by the caller; raises RecipeError for a verifier that cannot be used."""
    return Grader(recipe.verifiers, **recipe.reward.model_dump(), warn=warn)


def make_sampling(recipe: Recipe) -> SamplingSettings:
    """How all models of the recipe draw their responses."""
    return SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)


def make_branch(
    recipe: Recipe, base: Policy, tasks: Mapping[str, Task], grader: Grader, name: str, index: int
) -> Branch:
    """A branch that begins as the base; its field is the task of its own name."""
    policy = base.clone()
    return Branch(
        name,
        index,
        policy,
        tasks,
        make_sampling(recipe),
        field=name,
        learner=make_learner(recipe, policy),
        settings=make_objectives(recipe, base),
        grader=grader,
    )


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


def conflict_warnings(recipe: Recipe) -> list[str]:
    """A warning for every field whose share of conflict is not the one that the base was warmed up at."""
    seen = WARMED_UP_AT.get(recipe.model.path)
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in ((name, branch.task.conflict) for name, branch in recipe.branches.items())
        if seen is not None and share != seen
    ]
