"""What `copd doctor` says of the run as a whole: rows at once, bytes of each device, time and its shares, disk."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from copd.assemble.plan import Plan, handovers, measures_merge
from copd.branches.branch import Branch
from copd.commands.plan import cards_of
from copd.commands.plan import examine as planned_of
from copd.compute.queue import rows_at_once
from copd.compute.refill import refills
from copd.costs.need import CPU, on_each
from copd.doctor.findings import Finding
from copd.errors import RecipeError
from copd.model.policy import Policy
from copd.recipe.evaluation import FEW, Evaluation
from copd.recipe.model import Recipe
from copd.rows.rows import Rows
from copd.runs.checkpoint import part_of
from copd.runs.numbers import GIB, roughly, size
from copd.runs.remaining import EVALUATING, MEASURING, SAVING, Remaining
from copd.runs.screen import memory_in_words
from copd.runs.trackers import check_trackers
from copd.system.processes import peak, usable_cores
from copd.types import Problem, Split, Task

MUCH_EVALUATION, MUCH_SAVING = 0.5, 0.05
"""Shares of the time of a run beyond which doctor says what lowers them."""


@dataclass(frozen=True)
class Pace:
    """Seconds of all training, of one response sampled or scored, and of one branch's part of a checkpoint."""

    training: float
    sampled: float
    scored: float
    saved: float


def sampled_together(policy: Policy, asked_of: Mapping[str, Sequence[Problem]], rows: int, most_tokens: int) -> Finding:
    """How many rows of a batch are sampled together at most.

    On a card that many begin. Elsewhere they are as many as have room if all responses reach the limit of tokens.
    `asked_of`: the problems of each learner's batch, with `rows` responses to each.
    """
    told = []
    for name, asked in asked_of.items():
        prompt_of_N = torch.arange(len(asked)).repeat_interleave(rows)
        if policy.shared_prefix and refills(policy.device):
            tokens_P = policy.encoder.lengths(asked)
            together = rows_at_once([tokens_P[p] for p in prompt_of_N.tolist()], policy.cache_tokens)
        else:
            length_N = torch.full_like(prompt_of_N, most_tokens)
            every = range(len(prompt_of_N))
            batches = policy.split(every, asked, prompt_of_N, length_N, *policy.sampling_budget)
            together = max(map(len, batches))
        told.append(f"{name} {together:,} of {len(prompt_of_N):,}")
    budget = f"at most {policy.cache_tokens:,} tokens (sampling.cache_tokens, else model.micro_batch_tokens)"
    return Finding("rows sampled at once", "ok", f"{', '.join(told)}; {budget}")


def final_problems(evaluation: Evaluation, tasks: Mapping[str, Task]) -> Finding:
    """How many problems of each capability the final table asks. A warning names the field that gives more."""
    asked, split = evaluation.problems, Split(evaluation.split)
    found = f"{asked} {split.value} problems of each capability"
    if asked >= FEW:
        return Finding("final table", "ok", found)
    sizes = {name: task.size(split) for name, task in tasks.items() if isinstance(task, Rows)}
    least = min(sizes, key=lambda name: sizes[name], default=None)
    more = "raise evaluation.problems"
    if least is not None and sizes[least] < FEW:
        more = f"raise branches.{least}.task.{split.value}_share, or give more rows"
    advice = f"one problem is {100 / asked:.0f} points of an accuracy; {more}"
    return Finding("final table", "warning", f"{found}; {advice}")


def trackers(recipe: Recipe) -> Iterator[Finding]:
    """Whether the libraries of the recipe's trackers are installed, if it names any."""
    if recipe.trackers:
        try:
            check_trackers(recipe.trackers)
        except RecipeError as error:
            yield Finding("trackers", "failed", str(error).removeprefix("trackers: "))
        else:
            yield Finding("trackers", "ok", ", ".join(tracker.kind for tracker in recipe.trackers))


def devices(recipe: Recipe) -> Finding:
    """The bytes that each device needs at most, by the formula of `copd plan`, and those that it has."""
    check = "memory of each device"
    try:
        planned = planned_of(recipe, cards_of(None, None))
        needs = on_each(planned.needs)
    except RecipeError as error:
        return Finding(check, "failed", str(error))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    card = None if planned.cards.gib is None else int(planned.cards.gib * GIB)
    has = {device: machine if device == CPU else card for device in needs}
    told, over = [], []
    for device, most in needs.items():
        room = has[device]
        told.append(f"{device} {size(most)}" + (f" of {size(room)}" if room else ""))
        over += [device] if room and most > room else []
    advice = f"; {', '.join(over)}: `copd plan` tells what would help" if over else ""
    return Finding(check, "warning" if over else "ok", f"at most {', '.join(told)}{advice}")


def branches_at_once(backend: str, branches: int, threads: int) -> int:
    """How many branches compute at the same time: one in one process; in processes, as many as there are cores for."""
    return 1 if backend == "local" else max(1, min(branches, usable_cores() // threads))


def seconds_to_save(branch: Branch) -> float:
    """Seconds that a branch takes to write its part of a checkpoint into the current folder, where it is removed."""
    with TemporaryDirectory(prefix=".doctor-", dir=Path.cwd()) as folder:
        began = time.perf_counter()
        branch.write_state(part_of(Path(folder), branch.name))
        return time.perf_counter() - began


def shares(recipe: Recipe, evaluation: Evaluation, plan: Plan, pace: Pace, at_once: int) -> Finding:
    """The time of the run here: training, evaluation, checkpoints. Branches evaluate and save side by side too."""
    remaining = Remaining(plan, evaluation, recipe.checkpoint, handovers(recipe), merge=measures_merge(recipe, plan))
    left, branches = remaining.left(0), len(plan.branches)
    side_by_side = math.ceil(branches / at_once) / branches
    answers = (left[EVALUATING] + remaining.first_validation) * pace.sampled
    asked = 2 * evaluation.behaviour_problems * len(plan.capabilities)
    measures = asked * (
        (pace.sampled + pace.scored) + left[MEASURING] * branches * (pace.sampled + branches * pace.scored)
    )
    spent = {
        "training": pace.training,
        "evaluation": (answers + measures) * side_by_side,
        "checkpoints": left[SAVING] * branches * pace.saved * side_by_side,
    }
    total = sum(spent.values())
    told = ", ".join(f"{work} {roughly(seconds)} ({seconds / total:.0%})" for work, seconds in spent.items())
    advice = []
    if spent["evaluation"] > MUCH_EVALUATION * total:
        advice.append("evaluation.problems, validation_problems, pass_at and every_cycles decide what evaluation takes")
    if spent["checkpoints"] > MUCH_SAVING * total:
        advice.append("raise checkpoint.every_steps")
    return Finding("the whole run", "ok", "; ".join([f"about {roughly(total)} here: {told}", *advice]))


def training_seconds(plan: Plan, per_native: float, per_visit: float, at_once: int) -> float:
    """Seconds of all steps by those of a rollout."""
    rounds = math.ceil(len(plan.learners) / at_once)
    return plan.seconds(per_native, per_visit, rounds / len(plan.learners))


def estimate(plan: Plan, seconds: float, at_once: int) -> Finding:
    """Time of all steps, and the most memory that the checks held."""
    order = "branches one after the other" if at_once == 1 else f"{at_once} branches at once"
    found = (
        f"about {seconds / 60:.1f} minutes of training here for {plan.rollouts:,} rollouts, {order}, evaluation and "
        f"reports apart; memory {memory_in_words(peak())} at most in this one process"
    )
    return Finding("estimate", "ok", found)


def disk(learning: Mapping[str, Branch], plan: Plan, kept: int, weights_bytes: int) -> Finding:
    """Compare free disk with the need: final models, and one checkpoint more than `kept` while one is written.

    In a phase whose teachers are held, a checkpoint has their copies too, of `weights_bytes` each.
    """
    state = learning[plan.learners[0]].state()
    held = len(plan.learners) * weights_bytes if plan.edges and plan.batches.held_teachers else 0
    checkpoint = len(plan.branches) * sum(tensor.nbytes for tensor in state.values()) + held
    models = len({*plan.branches, plan.product or plan.branches[0]}) * weights_bytes
    needed, free = (kept + 1) * checkpoint + models, shutil.disk_usage(Path.cwd()).free
    found = (
        f"{size(checkpoint)} per checkpoint, {size(needed)} at most with the models at the end; "
        f"{size(free)} free in {Path.cwd()}"
    )
    return Finding("checkpoints", "ok" if needed < free else "failed", found)
