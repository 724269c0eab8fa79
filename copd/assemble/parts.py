"""Recipe to parts: its tasks, its base, and what a person should be warned of before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from copd.branches.branch import Branch, ObjectiveSettings, Reference, SamplingSettings, stream
from copd.commands.check import make_rows
from copd.compute.encode import Encoder
from copd.errors import ChatRefused, RecipeError
from copd.maths.distill import clamped_delta, masked_delta, proximal_delta
from copd.measure.health import Health
from copd.model.learner import Learner
from copd.model.load import compute_on, model_folder
from copd.model.lora import LoraSettings
from copd.model.objectives import Aggregate, Delta, over_constant, over_sequences, over_tokens
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.model.vocabulary import control_tokens
from copd.names import MIXED
from copd.recipe.reading import Recipe
from copd.rewards.grading import Grader
from copd.rows.rows import Rows
from copd.tasks.asked import Asked
from copd.tasks.digits import Digits
from copd.tasks.mixture import Mixture
from copd.topology import Edge
from copd.types import Problem, Rollouts, Split, Task

PROBED_PROBLEMS, PROBED_ROWS = 64, 8
"""Training problems of a task."""
SETTLED_ON = 3
"""Training problems per task on which the path is settled."""
WARMED_UP_AT = {"builtin:digits": 1.0}
"""The share of conflict that a base has seen."""
CHECKPOINTING = (
    "model.gradient_checkpointing: layers take no cache; log-probs of long sequences take the plain path, a prompt "
    "computed again for each of its rows; sampling keeps the shared prefix where the model bears it"
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
    """The task of every branch of the recipe, by the branch's name.

    Raises DataError for rows that cannot be used, RecipeError where more problems are asked for than there are rows.
    """
    tasks: dict[str, Task] = {}
    for name, branch in recipe.branches.items():
        section = branch.task
        if section.kind == "rows":
            tasks[name] = rows = make_rows(name, section, recipe.seed, recipe.verifiers, _asked(recipe))
            _check_sizes(recipe, name, rows)
        else:
            tasks[name] = digits = Digits(**section.model_dump(exclude={"kind"}), seed=recipe.seed)
            _check_there(recipe, name, digits)
    return tasks


def _asked(recipe: Recipe) -> dict[Split, int]:
    """Problems of a task that are measured."""
    asked = recipe.evaluation
    return {Split.VALIDATION: max(asked.validation_problems, asked.behaviour_problems), Split.TEST: asked.problems}


def _check_there(recipe: Recipe, name: str, digits: Digits) -> None:
    """Are there as many different problems as will be measured?"""
    for split, count in {Split.TRAIN: 1, **_asked(recipe)}.items():
        try:
            digits.problem(split, max(count, 1) - 1)
        except RecipeError as error:
            raise RecipeError(f"branches.{name}.task: {count} {split.value} problems are asked for: {error}") from None


def _check_sizes(recipe: Recipe, name: str, rows: Rows) -> None:
    """No problem may be counted twice: an interval would be narrower than the data warrant."""
    asked = recipe.evaluation
    for field, split in (
        ("problems", Split.TEST),
        ("validation_problems", Split.VALIDATION),
        ("behaviour_problems", Split.VALIDATION),
    ):
        if getattr(asked, field) > rows.size(split):
            raise RecipeError(
                f"evaluation.{field}: is {getattr(asked, field)}, but branches.{name}.task has {rows.size(split)} "
                f"{split.value} rows; ask for at most that many, or give more"
            )


def data_fingerprints(tasks: Mapping[str, Task]) -> dict[str, dict[str, dict[str, str]]]:
    """Branch, split, file to sha256, for the tasks that have files."""
    return {name: task.fingerprint() for name, task in tasks.items() if isinstance(task, Rows)}


def data_warnings(tasks: Mapping[str, Task]) -> list[str]:
    """A warning for every task that has left out bad rows."""
    return [
        f"branches.{name}.task: {task.skipped} bad rows were left out; `copd data check` lists them"
        for name, task in tasks.items()
        if isinstance(task, Rows) and task.skipped
    ]


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


def make_health(recipe: Recipe, edges: Sequence[Edge]) -> Health:
    """The guards of a run whose branches teach one another along these edges."""
    devices = [branch.device or recipe.model.device for branch in recipe.branches.values()]
    in_half = any(compute_on(device, recipe.model.dtype)[1] is not None for device in devices)
    taught = [(edge.student, edge.teacher) for edge in edges]
    return Health(taught, clamps=recipe.opd.bound != "proximal", in_half=in_half)


def make_grader(recipe: Recipe, warn: Callable[[str], None]) -> Grader:
    """The recipe's grader, to be closed by the caller; raises RecipeError for a verifier that cannot be used."""
    return Grader(recipe.verifiers, **recipe.reward.model_dump(), warn=warn)


def make_sampling(recipe: Recipe) -> SamplingSettings:
    """How all models of the recipe draw their responses."""
    return SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)


def make_branch(
    recipe: Recipe, base: Policy, tasks: Mapping[str, Task], grader: Grader, asked: Asked, name: str, index: int
) -> Branch:
    """A branch that begins as the base; its field is the task of its own name, `asked` are problems of validation."""
    policy = branch_policy(recipe, base, name)
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
        asked=asked,
    )


def make_branches(
    recipe: Recipe, base: Policy, tasks: Mapping[str, Task], grader: Grader, asked: Asked, names: Sequence[str]
) -> Iterator[Branch]:
    """The branches of a method, each made when it is asked for; that of "mixed" has all tasks in turn as its field."""
    fields = _fields(tasks)
    for index, name in enumerate(names):
        yield make_branch(recipe, base, fields, grader, asked, name, index)


def _fields(tasks: Mapping[str, Task]) -> dict[str, Task]:
    return {**tasks, MIXED: Mixture(MIXED, tuple(tasks.values()))}


@contextmanager
def lone_branch(recipe: Recipe, names: Sequence[str], name: str, warn: Callable[[str], None]) -> Iterator[Branch]:
    """The branch `name` of `names` as `make_branches` makes it, with a base, tasks and grader of its own.

    For a process that has no other branch. Left out are warnings that every process would give.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    tasks, base = make_tasks(recipe), load_policy(recipe)
    check_problems(base, tasks, recipe.sampling.max_new_tokens)
    known = data_warnings(tasks)
    with make_grader(recipe, warn) as grader:
        fields = _fields(tasks)
        yield make_branch(recipe, base, fields, grader, Asked(tasks), name, list(names).index(name))
        for warning in data_warnings(tasks):
            if warning not in known:
                warn(warning)


def check_problems(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> list[str]:
    """Look at the first problems of every task before anything is trained; warnings about the path taken.

    Raises what `check_prompts` and `settle_paths` raise.
    """
    check_prompts(policy, tasks, max_new_tokens)
    return settle_paths(policy, tasks)


def check_prompts(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> None:
    """Can the model take the first problems of every task?

    Raises RecipeError naming the branch whose prompts hold pictures that the model does not take, or are, with a
    response, longer than the model's context. Rows are measured whenever they are drawn, those of validation and test
    that will be asked for now, and one too long is a bad row.
    """
    context = policy.context
    for task in tasks.values():
        if isinstance(task, Rows):
            forbidden = control_tokens(policy.tokenizer)
            task.accept(partial(_unfit, policy.encoder, context, forbidden, max_new_tokens))
    for name, task in tasks.items():
        if isinstance(task, Rows):  # what is asked of its other splits was tried by `accept`
            problems = [task.problem(Split.TRAIN, i) for i in range(PROBED_ROWS)]
        else:
            problems = [task.problem(Split.TRAIN, i) for i in range(PROBED_PROBLEMS)]
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


def settle_paths(policy: Policy, tasks: Mapping[str, Task]) -> list[str]:
    """Settle the path of the policy on the first problems of every task; warnings about it.

    Raises ModelFolderError for a model that is computed wrongly.
    """
    warnings = [CHECKPOINTING] if policy.gradient_checkpointing else []
    for name, task in tasks.items():
        if warning := settle_path(policy, [task.problem(Split.TRAIN, i) for i in range(SETTLED_ON)]):
            warnings.append(f"branches.{name}: {warning}")
    return warnings


def _unfit(
    encoder: Encoder, context: int | None, forbidden: Collection[str], max_new_tokens: int, problem: Problem
) -> str | None:
    """Why a model of this encoder cannot take a prompt, if it cannot; the task that asks does not keep the model."""
    for text in (part for message in problem.messages for part in message.parts if isinstance(part, str)):
        if forged := next((token for token in forbidden if token in text), None):
            return f"the text holds the model's control token {forged!r}"
    try:
        (length,) = encoder.lengths([problem])
    except (ValueError, ChatRefused) as error:
        return f"the model's processor refuses it: {error}"
    if context is None or length + max_new_tokens <= context:
        return None
    return (
        f"the prompt has {length} tokens; with sampling.max_new_tokens={max_new_tokens} that is more than the model's "
        f"context of {context}"
    )


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
    shares = {name: branch.task.conflict for name, branch in recipe.branches.items() if branch.task.kind == "digits"}
    return [
        f"branches.{name}.task.conflict: is {share}, but {recipe.model.path} was warmed up at {seen}; "
        f"`copd warmup --conflict {share}` builds a base for it"
        for name, share in shares.items()
        if seen is not None and share != seen
    ]
