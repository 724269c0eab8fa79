"""Checks before training: whether the model can take the problems, and on which path it runs."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch

from copd.compute.encode import Encoder
from copd.errors import ChatRefused, ModelFolderError, RecipeError
from copd.handles import BranchHandle
from copd.maths.merge import OwnMerge, merge_tensor
from copd.model.parity import settle_path
from copd.model.policy import Policy
from copd.model.vocabulary import control_tokens
from copd.recipe.model import Recipe
from copd.rewards.grading import OURS
from copd.rows.rows import Rows
from copd.types import Problem, Split, Task

PROBED_PROBLEMS, PROBED_ROWS = 64, 8
"""How many training problems are checked of a task that makes them, and of a task on rows, where media are decoded."""
SETTLED_ON = 3
"""Training problems per task of the parity check that settles the path."""


def check_prompts(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> None:
    """Check that the model can take the first problems of every task.

    Raises RecipeError naming the branch if its prompts hold pictures that the model does not take, or if a prompt and
    its response are longer than the model's context. Rows are measured when they are drawn; those of validation and
    test that will be asked for are measured now. A row that is too long is a bad row.
    """
    context, kinds = policy.context, policy.encoder.family.kinds
    reject_unfit(policy, tasks, max_new_tokens)
    for task in tasks.values():
        if isinstance(task, Rows):
            task.try_asked()
    for name, task in tasks.items():
        count = PROBED_ROWS if isinstance(task, Rows) else PROBED_PROBLEMS
        problems = [task.problem(Split.TRAIN, i) for i in range(count)]
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


def reject_unfit(policy: Policy, tasks: Mapping[str, Task], max_new_tokens: int) -> None:
    """From now on, treat rows whose prompts the model does not take as bad rows."""
    for task in tasks.values():
        if isinstance(task, Rows):
            task.reject(unfit_for(policy, max_new_tokens))


def unfit_for(policy: Policy, max_new_tokens: int) -> Callable[[Problem], str | None]:
    """Why a model cannot take a prompt and answer it with so many tokens, or None, as a function of the problem."""
    forbidden = [token for token in control_tokens(policy.tokenizer) if token not in policy.spoken]
    return partial(_unfit, policy.encoder, policy.context, forbidden, max_new_tokens)


def settle_paths(policy: Policy, tasks: Mapping[str, Task], *, allow_plain_path: bool) -> list[str]:
    """Settle the policy's path on the first problems of every task, and return warnings about it.

    Raises ModelFolderError for a model that copd computes wrongly, and unless `allow_plain_path` for one that does not
    share prompts although its family is known to.
    """
    warnings: list[str] = []
    for name, task in tasks.items():
        problems = [task.problem(Split.TRAIN, i) for i in range(SETTLED_ON)]
        if warning := settle_path(policy, problems, allow_plain_path=allow_plain_path):
            warnings.append(f"branches.{name}: {warning}")
    return warnings


async def check_one_path(branches: Mapping[str, BranchHandle]) -> None:
    """Raise ModelFolderError, with the path of every branch, unless all compute on one path.

    Teachers and students on different paths would round differently, and some would be many times slower than others.
    """
    settled = dict(zip(branches, await gather(*(b.settled_path() for b in branches.values())), strict=True))
    if len({(path.shared_prefix, path.packing) for path in settled.values()}) > 1:
        told = "; ".join(f"branch {name}: {path.described}" for name, path in settled.items())
        raise ModelFolderError(
            f"branches: they settled on different paths: {told}. Let all compute on one kind of device in one type: "
            "model.device, branches.NAME.device, model.dtype"
        )


def _unfit(
    encoder: Encoder, context: int | None, forbidden: Collection[str], max_new_tokens: int, problem: Problem
) -> str | None:
    """Why a model with this encoder cannot take a prompt, or None.

    Takes no model, so that a task that calls it keeps none.
    """
    for text in (item for message in problem.messages for item in message.items if isinstance(item, str)):
        if forged := next((token for token in forbidden if token in text), None):
            return f"the text holds the model's control token {forged!r}"
    if problem.verifier in OURS and (forged := next((token for token in forbidden if token in problem.answer), None)):
        return f"the answer holds {forged!r}, a control token that the model cannot emit"
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


def check_merge(merge: OwnMerge, policy: Policy, branches: int) -> None:
    """Try a user's merge on a few small tensors, as of branches that differ a little. What it makes is thrown away.

    Raises RecipeError if it fails, so that it does not do so after training.
    """
    generator = torch.Generator().manual_seed(0)
    smallest = sorted(policy.trained_parameters().items(), key=lambda named: named[1].numel())
    for name, parameter in {parameter.ndim: (name, parameter) for name, parameter in reversed(smallest)}.values():
        base = parameter.detach().float().cpu()
        alike = [base + 1e-3 * torch.randn(base.shape, generator=generator) for _ in range(branches)]
        try:
            merge_tensor(merge, name, alike, base)
        except ValueError as error:
            raise RecipeError(f"merge.method: tried on the base before training: {error}") from error


def check_overlap(recipe: Recipe, policy: Policy) -> None:
    """Raise RecipeError if a k of the top-k overlap is larger than the number of tokens that the policy may emit."""
    if max(recipe.evaluation.overlap_k) > policy.allowed_tokens:
        raise RecipeError(
            f"evaluation.overlap_k: {max(recipe.evaluation.overlap_k)} is larger than the "
            f"{policy.allowed_tokens} tokens of the masked vocabulary"
        )
