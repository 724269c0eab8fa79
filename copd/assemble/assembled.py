"""What a recipe asks for, in one object: its tasks, its base, its grader, and its warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from copd.assemble.plan import make_plan
from copd.assemble.preflight import check_merge, check_overlap, check_prompts, reject_unfit, settle_paths
from copd.assemble.revisions import pinned
from copd.assemble.sampling import cut_of, make_sampler
from copd.assemble.tasks import (
    conflict_warnings,
    data_warnings,
    evaluation_of,
    leak_warnings,
    make_tasks,
    toy_warnings,
)
from copd.branches.actor import Actor, SamplingSettings
from copd.compute.family import Family
from copd.model.engine import EngineSampler
from copd.model.folders import compute_on, model_folder
from copd.model.holding import freeze
from copd.model.parity import checked_on, settled_path
from copd.model.policy import Policy
from copd.recipe.evaluation import Evaluation
from copd.recipe.model import Recipe
from copd.rewards.answers import MARKS
from copd.rewards.grading import Grader
from copd.rows.rows import Index, Rows
from copd.system.own_code import OwnCode, found_code, loaded
from copd.tasks.asked import Asked
from copd.tasks.mixture import Mixture
from copd.types import MIXED, SettledPath, Task


@dataclass(frozen=True)
class Inheritance:
    """What other processes inherit: the model's path and the indexes of rows, which were checked, and code by field."""

    path: SettledPath
    indexes: Mapping[str, Index]
    code: Mapping[str, OwnCode] = field(default_factory=dict)


Home = tuple[torch.device, torch.dtype | None]
"""A device, and the type of autocast on it."""


class Assembled:
    """What every command makes of a recipe. Each thing is made when it is first asked for.

    `warn` gets each warning once. The properties raise RecipeError, DataError or ModelFolderError if the recipe, the
    data or the model cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        warn: Callable[[str], None],
        *,
        tasks: Mapping[str, Task] | None = None,
        inherited: Inheritance | None = None,
        home: Home | None = None,
    ) -> None:
        """`tasks` replace those of the recipe, `home` its device. Branches and tags of the hub are resolved at once.

        `inherited` checks are not repeated, nor are their warnings.
        """
        self.recipe, self.warn = pinned(recipe), warn
        self._inherited, self._home = inherited, home
        self._ending = ExitStack()
        self._warned: set[str] = set()
        if tasks is not None:
            self.tasks = tasks

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The task of every branch, by the branch's name."""
        if self._inherited is None:
            return make_tasks(self.recipe, code=self.code)
        tasks = make_tasks(self.recipe, self._inherited.indexes, self.code)
        self._warned |= set(data_warnings(tasks))
        return tasks

    @cached_property
    def evaluation(self) -> Evaluation:
        """The recipe's section of evaluation with all sizes."""
        return evaluation_of(self.recipe, self.tasks)

    @cached_property
    def code(self) -> Mapping[str, OwnCode]:
        """The user's own code by the field that names it, with the hash that it had when the run began."""
        return found_code(self.recipe.own_code) if self._inherited is None else self._inherited.code

    def own(self, name: str) -> Any:
        """The user's function or class that the field `name` of the recipe names; None if it names none of the user's.

        Raises RecipeError if it cannot be used.
        """
        return loaded(self.code[name], name) if name in self.code else None

    def load_code(self) -> None:
        """Load all of the user's code that runs in this process, so that none fails after hours of training."""
        for name in self.code:
            if not name.startswith("verifiers."):
                self.own(name)

    @cached_property
    def asked(self) -> Asked:
        """The problems of all tasks and of their mixture. Those of validation and test are shared by all models."""
        return Asked({**self.tasks, MIXED: Mixture(MIXED, tuple(self.tasks.values()))})

    @property
    def fingerprints(self) -> dict[str, dict[str, dict[str, str]]]:
        """The sha256 of each file by branch, split and file name, for tasks that have files."""
        return {name: task.fingerprint() for name, task in self.tasks.items() if isinstance(task, Rows)}

    @cached_property
    def grader(self) -> Grader:
        """The recipe's grader. It lives as long as this object."""
        recipe = self.recipe
        further = {name: branch.rewards for name, branch in recipe.branches.items()}
        grader = Grader(recipe.verifiers, **recipe.reward.model_dump(), further=further, warn=self.warn)
        return self._ending.enter_context(grader)

    @cached_property
    def loaded(self) -> Policy:
        """The base, loaded from its folder to its device; nothing is checked yet but that the user's code is there."""
        if self._inherited is None:
            self.load_code()
        policy = load_policy(self.recipe, home=self._home, family=self.own("model.family"))
        check_overlap(self.recipe, policy)
        if self._inherited is None and (merge := self.own("merge.method")) and make_plan(self.recipe).merges:
            check_merge(merge, policy, len(self.recipe.branches))
        return policy

    @cached_property
    def fitting(self) -> Policy:
        """The loaded base, after a check that it can take the first problems of every task."""
        check = check_prompts if self._inherited is None else reject_unfit
        check(self.loaded, self.tasks, self.recipe.sampling.max_new_tokens)
        return self.loaded

    @cached_property
    def base(self) -> Policy:
        """The fitting base, on the path that its parity check chose."""
        policy, inherited = self.fitting, self._inherited
        if inherited is not None:
            return self._on_path(policy, inherited.path)
        path_warnings = self._settled(policy)
        of_recipe = [*toy_warnings(self.recipe), *conflict_warnings(self.recipe)]
        self._tell([*of_recipe, *leak_warnings(self.tasks), *data_warnings(self.tasks), *path_warnings])
        return policy

    def _on_path(self, policy: Policy, path: SettledPath) -> Policy:
        policy.shared_prefix, policy.packing, policy.doubt = path.shared_prefix, path.packing, path.doubt
        self.check_elsewhere(policy, path.checked_on)
        return policy

    def check_elsewhere(self, policy: Policy, place: str) -> None:
        """Check the path of a policy that took it over from a check on `place`, unless it computes there too.

        A doubt turns off what it is about, with a warning.
        """
        if checked_on(policy) != place:
            self._tell(self._settled(policy))

    def _settled(self, policy: Policy) -> list[str]:
        return settle_paths(policy, self.tasks, allow_plain_path=self.recipe.model.allow_plain_path)

    def model(self, path: str | None, name: str | None = None) -> Policy:
        """The model at `path`, checked like the base; None: another copy of the base. Warnings call it `name`."""
        policy = load_policy(self.recipe, path, home=self._home, family=self.own("model.family"))
        if self._inherited is not None:
            reject_unfit(policy, self.tasks, self.recipe.sampling.max_new_tokens)
            return self._on_path(policy, self._inherited.path)
        check_prompts(policy, self.tasks, self.recipe.sampling.max_new_tokens)
        for warning in self._settled(policy):
            self.warn(f"{name or path or self.recipe.model.path}: {warning}")
        return policy

    @cached_property
    def sampler(self) -> EngineSampler | None:
        """The engine that samples for all models of this process; None: each model samples itself."""
        sampler = make_sampler(self.recipe.sampling, self.tasks)
        if sampler is not None:
            self._ending.callback(sampler.close)
        return sampler

    @property
    def inheritance(self) -> Inheritance:
        """What the processes of branches inherit."""
        return self.inheritance_of(self.base)

    def inheritance_of(self, policy: Policy) -> Inheritance:
        """What other processes inherit that compute with copies of this policy."""
        indexes = {name: task.index for name, task in self.tasks.items() if isinstance(task, Rows)}
        return Inheritance(settled_path(policy), indexes, self.code)

    def actor(self, name: str, policy: Policy) -> Actor:
        """A model that answers problems and scores responses, but does not learn."""
        policy.sampler = self.sampler
        return Actor(name, policy, self.tasks, self.sampling, self.grader, self.asked)

    @property
    def sampling(self) -> SamplingSettings:
        """How all models of the recipe sample their responses."""
        seed, sampling = self.recipe.seed, self.recipe.sampling
        cut, stop = cut_of(sampling), sampling.stop
        return SamplingSettings(seed, sampling.max_new_tokens, sampling.temperature, cut, stop, sampling.refill)

    def tell_of_bad_rows(self) -> None:
        """Warn of the bad rows that were left out. Before a model is made to answer, no row was drawn."""
        if "asked" in vars(self):
            self._tell(data_warnings(self.tasks))

    def close(self) -> None:
        """End the grading processes."""
        self._ending.close()

    def _tell(self, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self.warn(warning)


@contextmanager
def assembled(
    recipe: Recipe,
    warn: Callable[[str], None],
    *,
    tasks: Mapping[str, Task] | None = None,
    inherited: Inheritance | None = None,
    home: Home | None = None,
) -> Iterator[Assembled]:
    """What a recipe asks for, while the block lives, with the recipe's number of threads for torch.

    At the end of the block a warning reports the bad rows that were found in it, and torch has its threads back.
    """
    threads = torch.get_num_threads()
    made = Assembled(recipe, warn, tasks=tasks, inherited=inherited, home=home)
    try:
        torch.set_num_threads(recipe.model.threads_per_branch)
        yield made
        made.tell_of_bad_rows()
    finally:
        torch.set_num_threads(threads)
        made.close()


def load_policy(
    recipe: Recipe, path: str | None = None, home: Home | None = None, family: type[Family] | None = None
) -> Policy:
    """The recipe's base, or the model at `path`, as a policy on the recipe's device, or at `home`.

    `family`: of the user's, in the place of the one that the model's configuration would choose.
    """
    device, autocast = home or compute_on(recipe.model.device, recipe.model.dtype)
    policy = Policy.from_pretrained(
        model_folder(path) if path else model_folder(recipe.model.path, revision=recipe.model.revision),
        device=device,
        autocast=autocast,
        micro_batch_tokens=recipe.model.micro_batch_tokens,
        cache_tokens=recipe.sampling.cache_tokens,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        spoken=MARKS[recipe.reward.answer_form],
        family=family,
    )
    freeze(policy.model, recipe.model.freeze)
    return policy
