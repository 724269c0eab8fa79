"""The jobs of a comparison: each is one `copd train` of an arm with a seed. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from copd.arms.budgets import budget_of, total_for_all
from copd.arms.comparison import Account, Changes, Comparison, as_overrides
from copd.assemble.plan import MissedBudget, make_plan
from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe, recipe_text
from copd.runs.experts import DECIDES_EXPERTS
from copd.runs.runlog import RUN_MANIFEST
from copd.schedule import TOLERATED

ALONE = ("backend=local", "model.threads_per_branch=1")
"""Of a job that has one core: its branches take turns in one process."""
PLACES = {"backend": "is local", "backend.kind": "is local", "model.threads_per_branch": "is 1"}
"""What `ALONE` decides, by its field."""
FEW = ("evaluation.models=product", "evaluation.problems=1", "evaluation.pass_at=[]")


@dataclass(frozen=True)
class Job:
    """One `copd train`. `needs` is the job whose experts it takes over. A job without an arm only trains experts.

    `order`: the overrides of its file as of `unusual_order`. `program`: a hash of the program that trains it, empty for
    copd as it is.
    """

    name: str
    arm: str | None
    seed: int
    account: Account
    source: str
    overrides: tuple[str, ...]
    rollouts: int
    needs: Job | None = None
    order: tuple[str, ...] = ()
    program: str = ""

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(self.source, self.overrides)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the recipe's text and of the overrides but for the seed: a result of others does not count."""
        changes = sorted(each for each in self.overrides if each != f"seed={self.seed}")
        decides = [recipe_text(self.source), *changes, *filter(None, [self.order, self.program])]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]

    def folder(self, runs: Path) -> Path:
        """Where its run is. A job that was changed has another folder, so that it takes over nothing of the former."""
        kind, _, seed = self.name.rpartition("/")
        return runs / (f"{kind}-{self.fingerprint[:8]}" if self.arm else kind) / seed

    def changes(self, runs: Path) -> list[str]:
        """The overrides, with the experts that its run takes over; runs are folders in `runs`.

        A run that has begun keeps the experts that it took over, whichever other arms share by now.
        """
        experts = _taken_over(self.folder(runs), str(self.needs.folder(runs)) if self.needs else None)
        return [*self.overrides, *([f"experts.run={experts}"] if experts else [])]

    def arguments(self, runs: Path) -> list[str]:
        """What `copd` is called with."""
        return ["train", self.source, *self.changes(runs), "--out", str(self.folder(runs)), "--resume"]

    @property
    def command(self) -> str:
        """The command that makes this run alone, in words for a reader: it trains its own experts."""
        return shlex.join(["copd", "train", self.source, *self.overrides, "--out", f"runs/{self.name}"])


def jobs_of(comparison: Comparison, seeds: Sequence[int], chosen: Mapping[str, Changes]) -> list[Job]:
    """All jobs: experts that several arms share first. `chosen` holds what each arm's search has found.

    Raises RecipeError naming the arm whose overrides make no sound recipe or plan.
    """
    evaluated = (f"evaluation.problems={comparison.problems}", f"evaluation.pass_at={json.dumps(comparison.pass_at)}")
    _check_places(comparison)
    found = []
    for account in comparison.accounts:
        for seed in seeds:
            arms = {name: {**changes, **chosen.get(name, {})} for name, changes in comparison.arms.items()}
            found += _of_seed(comparison, arms, seed, account, ("evaluation.models=product", *evaluated))
    for job in found:
        if (split := job.recipe.evaluation.split) != "test":
            raise RecipeError(
                f"arm {job.arm}: evaluation.split: is {split}, and arms are compared on test problems; leave it out"
            )
    return _sharing_experts(found)


def searches_of(comparison: Comparison) -> list[Job]:
    """The jobs of the search, by validation problems: the candidates of every arm that has some, with every seed."""
    search = comparison.search
    if search is None:
        raise RecipeError("--search: the file has no search; add one, or compare without it")
    evaluated = ("evaluation.models=product", "evaluation.split=validation", f"evaluation.problems={search.problems}")
    _check_places(comparison)
    found = []
    for seed in search.seeds:
        arms = {
            candidate_name(arm, place): {**comparison.arms[arm], **changes}
            for arm, candidates in search.candidates.items()
            for place, changes in enumerate(candidates)
        }
        found += _of_seed(comparison, arms, seed, comparison.accounts[0], (*evaluated, "evaluation.pass_at=[]"))
    return _sharing_experts(found)


def candidate_name(arm: str, place: int) -> str:
    """The name of an arm's candidate among the jobs of a search."""
    return f"{arm}.{place}"


def _check_places(comparison: Comparison) -> None:
    """Raises RecipeError if all arms are to have another place than jobs of one core have."""
    for path in comparison.changes:
        if comparison.place == "core" and path in PLACES:
            raise RecipeError(
                f"{path}: {PLACES[path]}; jobs of place: core train on one core each. Leave it out, or write "
                "place: recipe into the file; --ray runs the jobs on a cluster of Ray"
            )


def _of_seed(
    comparison: Comparison, arms: Mapping[str, Changes], seed: int, account: Account, evaluated: Sequence[str]
) -> list[Job]:
    """The jobs of one seed under one account."""
    placed = ALONE if comparison.place == "core" else ()
    common = (*as_overrides(comparison.changes), *placed, *evaluated, f"seed={seed}")
    first = comparison.compared_with[0]
    reference = load_recipe(comparison.recipe, [*common, *as_overrides(arms.get(first, comparison.arms[first]))])
    recipes = {name: _of_arm(name, comparison, [*common, *as_overrides(own)], reference) for name, own in arms.items()}
    jobs = []
    for name, changes in arms.items():
        try:
            rollouts = budget_of(account, recipes[name], reference, comparison.rollouts)
            overrides = (*common, *as_overrides(changes), f"budget.rollouts={rollouts}", "checkpoint.keep_last=1")
            order = unusual_order([*as_overrides(comparison.changes), *as_overrides(changes)])
            of_file = comparison.recipe, overrides, rollouts
            job = Job(f"{account}/{name}/seed-{seed}", name, seed, account, *of_file, order=order)
            make_plan(job.recipe)
        except MissedBudget as error:
            near = max(comparison.rollouts, error.nearest)
            total = total_for_all(comparison.accounts, list(recipes.values()), reference, near)
            raise RecipeError(_missed(comparison, name, total, error)) from error
        except RecipeError as error:
            raise RecipeError(f"arm {name}: {error}") from error
        jobs.append(job)
    return jobs


def unusual_order(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides in their order if the recipe hangs on it and it is not the usual one; else none.

    Usual is a section before its fields, and of two values of a field the one first that sorts first.
    """
    words = [(override.partition("=")[0], override) for override in overrides]
    unusual = any(
        early.startswith(f"{late}.") or (early == late and first > second)
        for (early, first), (late, second) in combinations(words, 2)
    )
    return tuple(overrides) if unusual else ()


def _of_arm(name: str, comparison: Comparison, overrides: Sequence[str], reference: Recipe) -> Recipe:
    """The recipe of an arm before it has a budget. Raises RecipeError if it cannot be compared with the reference."""
    try:
        recipe = load_recipe(comparison.recipe, overrides)
    except RecipeError as error:
        raise RecipeError(f"arm {name}: {error}") from error
    if recipe.sampling.refill:
        raise RecipeError(
            f"arm {name}: sampling.refill: is {recipe.sampling.refill}, but how many rollouts that takes is not known "
            "before, and arms are compared at equal budgets; set 0"
        )
    if set(recipe.branches) != set(reference.branches):
        raise RecipeError(
            f"arm {name}: branches: are {', '.join(recipe.branches)}, those of {comparison.compared_with[0]} "
            f"{', '.join(reference.branches)}; arms are compared in the same capabilities"
        )
    return recipe


def _missed(comparison: Comparison, name: str, total: int | None, error: MissedBudget) -> str:
    """Why an arm has no budget, and what would do for all arms: the total that suits one may not suit another."""
    instead = "lower the prompts and rollouts of a step" if total is None else f"all arms can with rollouts: {total}"
    return (
        f"rollouts: is {comparison.rollouts:,}, which arm {name} cannot make within {1 / TOLERATED:.0%}: its steps are "
        f"whole, and the nearest that it makes is {error.nearest:,}; {instead}"
    )


def _sharing_experts(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, and before each two or more that begin with the same experts one that trains these."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        if (key := _experts_of(job.recipe)) is not None:
            groups.setdefault(key, []).append(job)
    shared: dict[str, Job] = {}
    for group in groups.values():
        if len(group) > 1:
            experts = _experts_job(group)
            shared |= {job.name: experts for job in group}
    told: dict[str, Job] = {}
    for job in jobs:
        needs = shared.get(job.name)
        told |= {needs.name: needs} if needs else {}
        told[job.name] = replace(job, needs=needs) if needs else job
    return list(told.values())


def _experts_of(recipe: Recipe) -> str | None:
    """What decides the experts that a run begins with; None where it begins with none."""
    plan = make_plan(recipe)
    if len(plan.learners) < 2 or not plan.schedule.steps_before_exchange:
        return None
    settings = recipe.model_dump(mode="json")
    return json.dumps({name: settings[name] for name in DECIDES_EXPERTS}, sort_keys=True)


def _experts_job(group: Sequence[Job]) -> Job:
    """The job that trains all branches alone, for as long as any of the group needs them, and keeps what each needs."""
    steps = sorted({make_plan(job.recipe).schedule.steps_before_exchange for job in group})
    model = group[0]
    changes: dict[str, Any] = {
        "method": "expert",
        "schedule": {"cycles": 1, "rl_steps": steps[-1], "opd_steps": 0},
        "merge": {"method": "mean"},
        "topology": {"kind": "hub"},
        "budget.rollouts": None,
        "checkpoint.keep_at": steps,
    }
    if replay := max(job.recipe.opd.replay for job in group):
        changes["opd"] = {"signal": "forward_kl", "replay": replay}
    overrides = (*model.overrides, *FEW, *as_overrides(changes))
    job = replace(model, arm=None, overrides=overrides)
    name = f"experts-{job.fingerprint[:8]}/seed-{model.seed}"
    return replace(job, name=name, rollouts=make_plan(job.recipe).rollouts)


def _taken_over(folder: Path, otherwise: str | None) -> str | None:
    """The run whose experts the run in `folder` began with; `otherwise` where none has begun."""
    try:
        manifest = json.loads((folder / RUN_MANIFEST).read_text(encoding="utf-8"))
        found: str | None = manifest["recipe"]["experts"]["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise
    return found
