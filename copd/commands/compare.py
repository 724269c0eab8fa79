"""`copd compare`: arms of a recipe over several seeds at one budget, and the page about them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from copd.arms.comparison import Changes, Comparison, as_overrides, check_changes, read_comparison
from copd.arms.jobs import Job, jobs_of, searches_of
from copd.arms.outcomes import Outcome, finished_by, made_of
from copd.arms.page import write_page
from copd.arms.running import (
    Launch,
    Progress,
    in_minutes,
    launch_here,
    launch_whole,
    missing_of,
    own_rollouts,
    run_jobs,
)
from copd.arms.search import choose, chosen_file, read_chosen, searched_otherwise, write_chosen
from copd.arms.summary import Sources
from copd.assemble.assembled import Assembled, assembled
from copd.assemble.branches import make_branch
from copd.assemble.plan import make_plan
from copd.assemble.revisions import commits_of
from copd.assemble.tasks import leak_warnings
from copd.commands.manifest import new_manifest
from copd.errors import CopdError, JobError, RecipeError
from copd.recipe.reading import load_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.report.words import listed
from copd.runs.lifecycle import alone_in
from copd.runs.saved import result_of
from copd.system.files import replace_text
from copd.system.processes import usable_cores
from copd.types import Part, Problem, Split, digest_of

PROBLEMS = "problems.json"
"""What the test problems of each capability were made of, for intervals over problems that share something."""


@dataclass(frozen=True)
class Order:
    """What the command was asked for. `seeds` of the test; `workers` jobs run at once, each started by `launch`.

    `workers` None: as many as cores, or one where jobs place their branches as their recipe says. `launch` None: a
    process of this machine. `changes` are of all arms, unless an arm has its own. `programs`: of each arm that `launch`
    trains by another program than copd as it is, a hash of that program.
    """

    file: Path
    seeds: Sequence[int]
    out: Path
    workers: int | None
    tell: Callable[[str], None]
    launch: Launch | None = None
    changes: Sequence[str] = ()
    programs: Mapping[str, str] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job], there: Mapping[str, Outcome], out: Path, comparison: Comparison) -> Progress:
        """Run what is missing of these jobs of a comparison."""
        usual = launch_here if comparison.place == "core" else launch_whole
        return run_jobs(jobs, there, out, self.at_once(comparison), self.tell, self.launch or usual)

    def at_once(self, comparison: Comparison) -> int:
        """How many jobs run at once."""
        return self.workers or (usable_cores() if comparison.place == "core" else 1)


def plan_of(order: Order, *, search: bool) -> tuple[Comparison, list[Job]]:
    """The comparison and its jobs, of the test or of the search. All jobs have the same commits of the hub.

    Raises RecipeError if a seed is one of the search's, or if the test would begin before a search that the file asks
    for has chosen.
    """
    comparison = read_comparison(order.file)
    if wrong := [change for change in order.changes if "=" not in change]:
        raise RecipeError(f"{wrong[0]!r}: accepted: section.field=value")
    words = [change.partition("=") for change in order.changes]
    given = {path: parse_yaml(value, f"override {path}") for path, _, value in words}
    try:
        check_changes(given, "overrides", last=False)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    changes: Changes = {**comparison.changes, **given}
    commits = commits_of(load_recipe(comparison.recipe, as_overrides(changes)))
    pinned = {**changes, **commits}
    arms = {
        name: {**own, **_commits_of(own, comparison.recipe, changes, pinned)} for name, own in comparison.arms.items()
    }
    comparison = comparison.model_copy(update={"changes": pinned, "arms": arms})
    if search:
        return comparison, searches_of(comparison)
    if comparison.search and (shared := sorted(set(order.seeds) & set(comparison.search.seeds))):
        raise RecipeError(f"--seeds: {shared[0]} is a seed of the search; test with others")
    chosen: Mapping[str, Changes] = {}
    if comparison.search:
        chosen = read_chosen(order.file, comparison)
        if stale := searched_otherwise(order.file, comparison):
            order.tell(
                f"warning: {chosen_file(order.file)}: chosen for {listed(stale)} by a search of other settings than "
                f"those of {order.file} now; run --search again"
            )
    jobs = jobs_of(comparison, order.seeds, chosen)
    programs = {job.name: order.programs[job.arm] for job in jobs if job.arm and job.arm in order.programs}
    return comparison, [replace(job, program=programs[job.name]) if job.name in programs else job for job in jobs]


def _commits_of(own: Changes, recipe: str, changes: Changes, pinned: Changes) -> Changes:
    """The commits of an arm that names a model or rows itself, where those `pinned` for all are not its own."""
    if not any(path.partition(".")[0] in ("model", "branches") for path in own):
        return {}
    try:
        alone, beside = (load_recipe(recipe, as_overrides(each) + as_overrides(own)) for each in (changes, pinned))
    except RecipeError:
        return {}  # the arm's jobs tell it, with its name
    found, left = commits_of(alone), commits_of(beside)
    return {field: commit for field, commit in found.items() if field in left or pinned.get(field) != commit}


def run_comparison(order: Order) -> tuple[Path, Progress]:
    """Run what is missing of the test, and write the page about all that is there."""
    comparison, jobs = plan_of(order, search=False)
    there = finished_by(jobs, order.out / "results")
    with _assembled_once(jobs, there, order.out, order) as made:
        sources = _look_at_problems(made, comparison, order)
    with alone_in(order.out):
        progress = order.run(jobs, there, order.out, comparison)
    outcomes = [progress.outcomes[job.name] for job in jobs if job.name in progress.outcomes]
    if not outcomes:
        raise JobError(f"{order.file}: no job came to its end; see the lines above and {order.out / 'runs'}")
    return write_page(order.out, comparison, outcomes, sources), progress


def run_search(order: Order) -> tuple[Path, Progress]:
    """Run what is missing of the search, and write down what it chose for each arm."""
    comparison, jobs = plan_of(order, search=True)
    out = order.out / "search"
    there = finished_by(jobs, out / "results")
    if len(there) < sum(job.arm is not None for job in jobs):
        with _assembled_once(jobs, there, out, order):
            pass
    with alone_in(out):
        progress = order.run(jobs, there, out, comparison)
    if progress.failed:
        raise JobError(f"--search: {len(progress.failed)} of {len(jobs)} jobs failed; nothing was chosen")
    choices = choose(comparison, list(progress.outcomes.values()))
    for choice in choices:
        order.tell(choice.told())
    path = chosen_file(order.file)
    write_chosen(path, choices, jobs)
    return path, progress


@contextmanager
def jobs_on_ray(order: Order, workers: int | None) -> Iterator[Order]:
    """The same, with jobs as actors of Ray: as many at once as its cluster has cores, unless `workers` says otherwise.

    Raises RecipeError if Ray is not installed or if jobs place their branches themselves, ProcessError if its cluster
    cannot be reached.
    """
    if read_comparison(order.file).place == "recipe":
        raise RecipeError(
            f"--ray: {order.file} has place: recipe, whose jobs use the backend of their recipe; leave it out"
        )
    try:
        from copd.arms.on_ray import RayJob, cores
        from copd.system.cluster import cluster
    except ModuleNotFoundError as error:
        raise RecipeError(f"--ray: a package is not installed ({error.name}); pip install 'copd[ray]'") from error
    with cluster(workers or 1):
        yield replace(order, workers=workers or cores(), launch=RayJob)


def dry_run(order: Order, *, search: bool) -> Iterable[tuple[str, ...]]:
    """For each kind of job: name, seeds still to run, rollouts, most tokens, minutes here with `workers` at once.

    Experts are left out whose run has ended. Minutes are not told of jobs that place their branches as their recipe
    says.
    """
    comparison, jobs = plan_of(order, search=search)
    out = order.out / "search" if search else order.out
    missing = missing_of(jobs, finished_by(jobs, out / "results"))
    missing = [job for job in missing if job.arm or not result_of(job.folder(out / "runs"))]
    if not missing:
        return
    seconds = math.nan
    if comparison.place == "core":
        seconds = seconds_per_rollout(missing[-1]) / order.at_once(comparison)
    kinds: dict[str, list[Job]] = {}
    for job in missing:
        kinds.setdefault(job.name.rpartition("/")[0], []).append(job)
    for kind, own in (*kinds.items(), ("all", missing)):
        rollouts = sum(map(own_rollouts, own))
        tokens = sum(own_rollouts(job) * job.recipe.sampling.max_new_tokens for job in own)
        minutes = "" if math.isnan(seconds) else in_minutes(rollouts * seconds / 60)
        yield kind, f"{len(own)}", f"{rollouts:,}", f"{tokens:,}", minutes


def seconds_per_rollout(job: Job) -> float:
    """Measured on one step of GRPO of each of the job's learners at its real size, after one to warm up."""
    with assembled(job.recipe, lambda _: None) as made:
        plan = make_plan(made.recipe)
        seconds = 0.0
        for index, name in enumerate(plan.learners):
            branch = make_branch(made, name, index)
            for step in range(2):
                began = time.perf_counter()
                rollouts = branch.collect(
                    branch.capability, step, plan.batches.prompts, plan.batches.rollouts_per_prompt
                )
                branch.update([Part("native", rollouts)])
            seconds += time.perf_counter() - began
        return seconds / (len(plan.learners) * plan.batches.native)


@contextmanager
def _assembled_once(jobs: Sequence[Job], there: Mapping[str, Outcome], out: Path, order: Order) -> Iterator[Assembled]:
    """A job's base and tasks; of one with an older result if others are still to run, with a warning if it has changed.

    Jobs of a cluster may have other versions of libraries there, so those are not compared.
    """
    former = next((job for job in reversed(jobs) if job.name in there), None)
    with ExitStack() as stack:
        made = None
        if former and not order.launch and missing_of(jobs, there):
            with suppress(CopdError):  # the missing jobs tell what is not there
                made = stack.enter_context(assembled(former.recipe, order.tell))
                _tell_of_changes(made, former, there[former.name].made_of, out, order)
        yield made or stack.enter_context(assembled(jobs[-1].recipe, order.tell))


def _look_at_problems(made: Assembled, comparison: Comparison, order: Order) -> Sources:
    """Warn of leaks between splits and branches, and keep what the test problems were made of."""
    for warning in leak_warnings(made.tasks):
        order.tell(f"warning: {warning}")
    found = {name: _sources_of(made, name, comparison.problems) for name in made.tasks}
    path = order.out / "results" / PROBLEMS
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(found) + "\n")
    return found


def _tell_of_changes(made: Assembled, former: Job, before: str, out: Path, order: Order) -> None:
    """Warn where new results would stand beside older ones that were made of other things than those here now."""
    if before and before != made_of(new_manifest(made)):
        order.tell(
            f"warning: {out}: rows, model, code or versions are no longer those of its results ({former.name}); to "
            "compare anew, give another --out"
        )


def _sources_of(made: Assembled, name: str, count: int) -> list[list[str]]:
    return [_named(problem) for problem in made.asked.first(Split.TEST, name, count)]


def _named(problem: Problem) -> list[str]:
    """The sources of a problem; where its task names none, its images and videos as they are."""
    media = (*problem.images, *problem.videos)
    return list(problem.sources) or [digest_of(item).hex()[:16] for item in media]
