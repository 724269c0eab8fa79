"""A recipe's parts in one object: its tasks, its base, its grader, and what a person is warned of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from copd.assemble.preflight import check_overlap, check_prompts, reject_unfit, settle_paths
from copd.assemble.tasks import conflict_warnings, data_fingerprints, data_warnings, make_tasks
from copd.branches.branch import Actor, SamplingSettings
from copd.model.folders import compute_on, model_folder
from copd.model.policy import Policy
from copd.recipe.model import Recipe
from copd.rewards.grading import Grader
from copd.rows.rows import Index, Rows
from copd.tasks.asked import Asked
from copd.types import Task


@dataclass(frozen=True)
class Inheritance:
    """What a process that has looked at model and data leaves to others: its path, and where the rows stand."""

    shared_prefix: bool
    packing: bool
    indexes: Mapping[str, Index]


class Assembled:
    """What every command makes of a recipe. Each part is made when it is first asked for.

    `warn` is told once of whatever a person should know. Parts raise RecipeError, DataError or ModelFolderError where
    the recipe, the data or the model cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        warn: Callable[[str], None],
        *,
        tasks: Mapping[str, Task] | None = None,
        inherited: Inheritance | None = None,
    ) -> None:
        """`tasks` take the place of those of the recipe. What is `inherited` is not looked at or warned of again."""
        self.recipe, self.warn = recipe, warn
        self._inherited = inherited
        self._ending = ExitStack()
        self._told: set[str] = set()
        if tasks is not None:
            self.tasks = tasks

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The task of every branch, by the branch's name."""
        if self._inherited is None:
            return make_tasks(self.recipe)
        tasks = make_tasks(self.recipe, self._inherited.indexes)
        self._told |= set(data_warnings(tasks))
        return tasks

    @cached_property
    def asked(self) -> Asked:
        """The problems that are measured, shared by all models."""
        return Asked(self.tasks)

    @property
    def fingerprints(self) -> dict[str, dict[str, dict[str, str]]]:
        """Branch, split, file to sha256, for the tasks that have files."""
        return data_fingerprints(self.tasks)

    @cached_property
    def grader(self) -> Grader:
        """The recipe's grader, which lives as long as this object."""
        recipe = self.recipe
        return self._ending.enter_context(Grader(recipe.verifiers, **recipe.reward.model_dump(), warn=self.warn))

    @cached_property
    def loaded(self) -> Policy:
        """The base as it comes from its folder, on the recipe's device."""
        policy = load_policy(self.recipe)
        check_overlap(self.recipe, policy)
        return policy

    @cached_property
    def fitting(self) -> Policy:
        """The loaded base, once the first problems of every task were seen to fit it."""
        check = check_prompts if self._inherited is None else reject_unfit
        check(self.loaded, self.tasks, self.recipe.sampling.max_new_tokens)
        return self.loaded

    @cached_property
    def base(self) -> Policy:
        """The fitting base on the path that its parity check has settled."""
        if self._inherited is not None:
            self.fitting.shared_prefix, self.fitting.packing = self._inherited.shared_prefix, self._inherited.packing
            return self.fitting
        path_warnings = settle_paths(self.fitting, self.tasks)
        self._tell([*conflict_warnings(self.recipe), *data_warnings(self.tasks), *path_warnings])
        return self.fitting

    def model(self, path: str | None, name: str | None = None) -> Policy:
        """The model at `path` (None: the base, apart from `base`), looked at likewise; `name` is for warnings."""
        policy = load_policy(self.recipe, path)
        check_prompts(policy, self.tasks, self.recipe.sampling.max_new_tokens)
        for warning in settle_paths(policy, self.tasks):
            self.warn(f"{name or path or self.recipe.model.path}: {warning}")
        return policy

    @property
    def inheritance(self) -> Inheritance:
        """What the processes of branches take over."""
        indexes = {name: task.index for name, task in self.tasks.items() if isinstance(task, Rows)}
        return Inheritance(self.base.shared_prefix, self.base.packing, indexes)

    def actor(self, name: str, policy: Policy) -> Actor:
        """A model that answers problems and looks at answers, and does not learn."""
        return Actor(name, -1, policy, self.tasks, self.sampling, self.grader, self.asked)

    @property
    def sampling(self) -> SamplingSettings:
        """How all models of the recipe draw their responses."""
        recipe = self.recipe
        return SamplingSettings(recipe.seed, recipe.sampling.max_new_tokens, recipe.sampling.temperature)

    def tell_of_bad_rows(self) -> None:
        """Warn of bad rows that were left out since `base` was made; where it was not, nothing was drawn."""
        if "base" in vars(self):
            self._tell(data_warnings(self.tasks))

    def close(self) -> None:
        """End the grading processes."""
        self._ending.close()

    def _tell(self, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                self.warn(warning)


@contextmanager
def assembled(
    recipe: Recipe,
    warn: Callable[[str], None],
    *,
    tasks: Mapping[str, Task] | None = None,
    inherited: Inheritance | None = None,
) -> Iterator[Assembled]:
    """A recipe's parts while the block lives, with the recipe's number of threads for torch.

    Bad rows that are found in the block are warned of at its end.
    """
    torch.set_num_threads(recipe.model.threads_per_branch)
    made = Assembled(recipe, warn, tasks=tasks, inherited=inherited)
    try:
        yield made
        made.tell_of_bad_rows()
    finally:
        made.close()


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
