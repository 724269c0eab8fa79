"""`copd doctor`: checks before a long run for faults that would cost it dearly.

The checks use the recipe's own model, tasks, graders and branches, on training problems. The branches make a few real
steps and are thrown away. Nothing that is written stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from copd.assemble.assembled import Assembled, assembled
from copd.assemble.branches import make_branch
from copd.assemble.plan import Plan, kept_checkpoints, make_plan
from copd.branches.actor import generator_of
from copd.branches.branch import Branch
from copd.branches.described import describe
from copd.branches.handle import Handle
from copd.branches.local import Turns, finish, local_handle
from copd.compute.batching import take_rows
from copd.compute.family import Encoded, Family
from copd.doctor.findings import Finding, machine, noise, one_line, short
from copd.doctor.outlook import (
    Pace,
    branches_at_once,
    devices,
    disk,
    estimate,
    final_problems,
    sampled_together,
    seconds_to_save,
    shares,
    trackers,
    training_seconds,
)
from copd.doctor.remedies import Answered, advice_on
from copd.errors import CopdError
from copd.model.folders import load_family, model_folder
from copd.model.parity import TOLERANCE_NATS, UNABLE, largest_difference
from copd.model.policy import Policy
from copd.recipe.model import Recipe
from copd.rows.rows import Rows
from copd.schedule import Batches
from copd.topology import Edge
from copd.types import BASE, Part, Problem, Rollouts, Split, Task

PROBED = 32
"""Training problems of a capability that the base answers. Kinds of prompts are looked for among them."""
OF_EACH_KIND = 3
SHOWN = 2
"""Graded samples shown per capability."""


def examine(recipe: Recipe) -> Iterator[Finding]:
    """All checks in order, each as soon as it is made.

    The first check that cannot be made counts as failed and is the last.

    Raises RecipeError if the recipe has no plan.
    """
    plan = make_plan(recipe)
    yield from machine(recipe.model.threads_per_branch)
    yield from trackers(recipe)
    try:
        yield from _examine_made(recipe, plan)
    except (CopdError, OSError) as error:
        yield Finding("examination", "failed", f"ends here: {error}")
    except (RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__} in the model or its processor: {one_line(error)}"
        yield Finding("examination", "failed", f"ends here: {reason}")


def _examine_made(recipe: Recipe, plan: Plan) -> Iterator[Finding]:
    warnings: list[str] = []
    with assembled(recipe, warnings.append) as made:
        yield from _examine_assembled(made, plan, warnings)


def _examine_assembled(made: Assembled, plan: Plan, warnings: list[str]) -> Iterator[Finding]:
    """`warnings` holds the warnings of model, tasks and grader."""
    recipe, loaded = made.recipe, made.loaded
    weights_bytes = sum(parameter.nbytes for parameter in loaded.model.parameters())
    yield _described(recipe.model.path, loaded)
    tasks = made.tasks
    rows = {name: f"{task.size(Split.TRAIN)} training rows" for name, task in tasks.items() if isinstance(task, Rows)}
    yield Finding("data", "ok", ", ".join(f"{name}: {rows.get(name, 'made as they are asked for')}" for name in tasks))
    yield Finding("verifiers", "ok", ", ".join(made.grader.functions) or "those of copd")
    fitting, kinds = made.fitting, _by_kind(tasks)
    again = load_family(model_folder(recipe.model.path, revision=recipe.model.revision), made.own("model.family"))
    for kind, problems in kinds.items():
        yield prompts(kind, fitting.encoder.family, again, problems)
    for kind, problems in kinds.items():
        yield shared_prefix(kind, fitting, problems)
    base = made.base
    for warning in _taken(warnings):
        yield Finding("the run will warn", "warning", warning)
    probes = {kind: _sampled(base, problems) for kind, problems in kinds.items()}
    bench = Bench(made, plan)
    for kind, rollouts in probes.items():
        yield equal_teacher(kind, bench, rollouts)
    yield final_problems(made.evaluation, tasks)
    yield devices(recipe)
    if base.sampler is None:
        first = {name: made.asked.first(Split.TRAIN, name, plan.batches.prompts) for name in plan.learners}
        yield sampled_together(base, first, plan.batches.rollouts_per_prompt, recipe.sampling.max_new_tokens)
    for name in tasks:
        yield from capability(name, bench, recipe.sampling.rollouts_per_prompt, warnings)
    yield from _steps(bench, plan)
    at_once = branches_at_once(recipe.backend.kind, len(plan.learners), recipe.model.threads_per_branch)
    yield from _lesson_and_estimate(bench, plan, at_once)
    yield disk(bench.learning, plan, kept_checkpoints(recipe), weights_bytes)


def _taken(warnings: list[str]) -> list[str]:
    """All warnings of the list, which is emptied."""
    taken = list(warnings)
    warnings.clear()
    return taken


class Bench:
    """Base and branches as in the run. They take turns on their device if the recipe says so."""

    def __init__(self, made: Assembled, plan: Plan) -> None:
        self.recipe, self.evaluation = made.recipe, made.evaluation
        self.scored = 0.0
        """Seconds in which a response is scored, a mean over the learners, once they have made their steps."""
        self.turns = turns = Turns() if made.recipe.model.offload else None
        self.branches: dict[str, Handle] = {}
        self.learning: dict[str, Branch] = {}
        self.devices: dict[str, torch.device] = {}
        for branch in (make_branch(made, name, index) for index, name in enumerate(plan.branches)):
            self.branches[branch.name], self.learning[branch.name] = local_handle(branch, turns), branch
            self.devices[branch.name] = branch.home
            if turns is not None:
                turns.wait(branch)
        self.actor = made.actor(BASE, made.base)
        self.base = local_handle(self.actor, turns)
        if turns is not None:
            turns.wait(self.actor)

    def graded(self, task: str, rollouts_per_prompt: int) -> tuple[Rollouts, float]:
        """The base's graded responses to the first problems of a task, and how many responses are graded per second.

        Only the grading of the second half is timed. By then the grading processes run, and none of that half was
        graded before.
        """
        actor = self.actor
        if self.turns is not None:
            self.turns.take(actor)
        problems = actor.asked.first(Split.TRAIN, task, PROBED)
        rollouts = actor.sample(problems, rollouts_per_prompt, generator_of(actor.sampling.seed, "doctor", task, 0))
        first, second = (take_rows(rollouts, rows) for rows in torch.arange(len(rollouts.tokens_NT)).chunk(2))
        graded = [actor.grade(first)]
        started = time.perf_counter()
        graded.append(actor.grade(second))
        speed = len(second.tokens_NT) / (time.perf_counter() - started)
        return replace(
            rollouts,
            reward_N=torch.cat([half.reward_N for half in graded if half.reward_N is not None]),
            correct_N=torch.cat([half.correct_N for half in graded if half.correct_N is not None]),
            grader_failures=sum(half.grader_failures for half in graded),
        ), speed


def _described(path: str, policy: Policy) -> Finding:
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    found = (
        f"{path}: {type(policy.model).__name__}, {count / 1e6:.1f} M parameters, on {policy.device}, "
        f"{policy.autocast or torch.float32}; {type(policy.processor).__name__}; context {policy.context}; "
        f"{policy.allowed_tokens} of {len(policy.banned_V)} tokens may be emitted"
    )
    return Finding("model, tokenizer, processor", "ok", found)


def _by_kind(tasks: Mapping[str, Task]) -> dict[str, list[Problem]]:
    """The first training problems of each kind, from all tasks."""
    kinds: dict[str, list[Problem]] = {}
    for task in tasks.values():
        for problem in (task.problem(Split.TRAIN, i) for i in range(PROBED)):
            kinds.setdefault(problem.kind, []).append(problem)
    return {kind: problems[:OF_EACH_KIND] for kind, problems in kinds.items()}


def prompts(kind: str, student: Family, teacher: Family, problems: Sequence[Problem]) -> Finding:
    """Check that two families, loaded separately, encode a problem alike and with the placeholders the model wants.

    A sampler uses the student's or the teacher's family; it never has its own encoder (method.md, trap 6).
    """
    check = f"{kind}: prompts of sampler, student and teacher"
    pairs = zip(student.encode(problems), teacher.encode(problems), strict=True)
    lengths = []
    for problem, (own, other) in zip(problems, pairs, strict=True):
        found, asked = student.placeholders(own)
        if found != asked:
            reason = f"{found} placeholder tokens where the model wants {asked}; its processor was made for another"
            return Finding(check, "failed", f"problem {problem.id}: {reason}")
        if difference := _difference(own, other):
            return Finding(check, "failed", f"problem {problem.id}: loaded twice, two processors differ: {difference}")
        lengths.append(len(own.ids_S))
    return Finding(check, "ok", f"the same when loaded twice, {min(lengths)} to {max(lengths)} tokens")


def _difference(a: Encoded, b: Encoded) -> str | None:
    """The tensors of a prompt that differ, with their sizes; None if all are equal."""
    ours, theirs = ({"tokens": e.ids_S, "positions": e.positions_AS, **e.media} for e in (a, b))
    for name in sorted({**ours, **theirs}):
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name]):
            sizes = [tuple(each[name].shape) if name in each else "none" for each in (ours, theirs)]
            return f"{name} {sizes[0]} and {sizes[1]}"
    return None


def shared_prefix(kind: str, policy: Policy, problems: Sequence[Problem]) -> Finding:
    """Compare log-probs of sampler and scorer with a plain forward's. A cache that cannot be shared is a warning."""
    check, accepted = f"{kind}: shared prefix against plain forward", TOLERANCE_NATS[policy.autocast]
    try:
        difference = largest_difference(policy, problems)
    except UNABLE as error:
        reason = f"does not work with this model ({one_line(error)}); the plain path is slower"
        return Finding(check, "warning", reason)
    found = f"log-probs differ by at most {difference:.1e} nats (accepted: {accepted:g})"
    return Finding(check, "ok" if difference <= accepted else "failed", found)


def _sampled(policy: Policy, problems: Sequence[Problem]) -> Rollouts:
    return policy.sample(problems, rollouts_per_prompt=2, generator=torch.Generator().manual_seed(0))


def equal_teacher(kind: str, bench: Bench, rollouts: Rollouts) -> Finding:
    """Let the base teach an untrained branch: every delta is exactly 0 if both use one device."""
    name, student = next(iter(bench.branches.items()))
    scores = [finish(each.inspect(rollouts, 0)).logp_NT for each in (bench.base, student)]
    delta = float((scores[0] - scores[1]).abs().max())
    policy = bench.actor.policy
    accepted = 0.0 if bench.devices[name] == bench.actor.home else TOLERANCE_NATS[policy.autocast]
    found = f"greatest |delta| {delta:.2g} nats (accepted: {accepted:g})"
    return Finding(f"{kind}: a teacher equal to its student", "ok" if delta <= accepted else "failed", found)


def capability(name: str, bench: Bench, rollouts_per_prompt: int, failures: list[str]) -> Iterator[Finding]:
    """The base on a capability: pass rate, signal, a few graded samples, and the speed of grading.

    `failures` holds the grader's warnings, and is emptied.
    """
    rollouts, speed = bench.graded(name, rollouts_per_prompt)
    assert rollouts.reward_N is not None
    assert rollouts.correct_N is not None
    seen = {key.partition("/")[2]: value for key, value in describe(Part("base", rollouts), rollouts).items()}
    rate, signal, truncated = (
        float(rollouts.correct_N.float().mean()),
        seen["groups_with_signal"],
        seen["truncated_rate"],
    )
    texts = bench.actor.policy.texts(rollouts)
    problems = [rollouts.problems[p] for p in rollouts.prompt_of_N.tolist()]
    rows = zip(texts, problems, rollouts.finished_N.tolist(), rollouts.correct_N.tolist(), strict=True)
    responses = [Answered(*row) for row in rows]
    advice = advice_on(responses, signal, bench.recipe.reward.answer_form, rollouts.grader_failures)
    found = (
        f"pass rate {rate:.2f}, mean reward {seen['reward']:.2f}, {signal:.0%} of {PROBED} groups of "
        f"{rollouts_per_prompt} with signal, {truncated:.0%} truncated, {seen['response_length']:.0f} tokens each"
    )
    yield Finding(f"{name}: the base", "warning" if advice else "ok", "; ".join([found, *advice]))
    for n in range(0, SHOWN * rollouts_per_prompt, rollouts_per_prompt):
        problem = rollouts.problems[int(rollouts.prompt_of_N[n])]
        graded = f"answer {short(problem.answer)}, reward {float(rollouts.reward_N[n]):g}"
        yield Finding(f"{name}: sample", "ok", f"{short(problem.prompt)} -> {short(texts[n])}; {graded}")
    found = f"{speed:,.0f} responses graded per second"
    failed = f"; {rollouts.grader_failures} of {len(texts)} failed: " if rollouts.grader_failures else ""
    yield Finding(f"{name}: grading", "warning" if failed else "ok", found + failed + "; ".join(_taken(failures)))


def _steps(bench: Bench, plan: Plan) -> Iterator[Finding]:
    """One RLVR step of every learner at its real size."""
    batches = plan.batches
    for name in plan.learners:
        branch = bench.branches[name]
        rollouts = finish(branch.collect(branch.capability, 0, batches.prompts, batches.rollouts_per_prompt))
        began = time.perf_counter()
        before = finish(branch.inspect(rollouts, 0))
        bench.scored += (time.perf_counter() - began) / (len(plan.learners) * batches.native)
        metrics = finish(branch.update([Part("native", rollouts)]))
        after, skipped = finish(branch.inspect(rollouts, 0)), bool(metrics["skipped"])
        yield noise(name, rollouts, before, after, "one step changes them", skipped=skipped)


def _lesson_and_estimate(bench: Bench, plan: Plan, at_once: int) -> Iterator[Finding]:
    """One part of OPD, for the first edge, if any. The seconds of all steps then give the estimate and its shares.

    Branches that hold a copy to teach with hold it here too, so that the memory is that of the run.
    """
    spent = [finish(bench.branches[name].counts()) for name in plan.learners]
    native = sum(each["collect_seconds"] + each["update_seconds"] for each in spent)
    sampled = sum(each["collect_seconds"] for each in spent)
    visit = 0.0
    if plan.taught:
        holding = [bench.branches[name] for name in plan.learners if plan.edges and plan.batches.held_teachers]
        for branch in holding:
            finish(branch.hold())
        visit, finding = lesson(bench, plan.taught[0], plan.batches)
        for branch in holding:
            finish(branch.release())
        yield finding
    rollouts = sum(each["rollouts"] for each in spent)
    seconds = training_seconds(plan, native / rollouts, visit / plan.batches.per_edge, at_once)
    yield estimate(plan, seconds, at_once)
    saved = seconds_to_save(bench.learning[plan.learners[0]])
    yield shares(bench.recipe, bench.evaluation, plan, Pace(seconds, sampled / rollouts, bench.scored, saved), at_once)


def lesson(bench: Bench, edge: Edge, batches: Batches) -> tuple[float, Finding]:
    """Seconds of sampling, scoring and update together; and the noise, compared with the teacher's deltas."""
    student, teacher, started = bench.branches[edge.student], bench.branches[edge.teacher], time.perf_counter()
    rollouts = finish(student.collect(teacher.capability, 0, batches.opd_prompts, batches.opd_rollouts_per_prompt))
    score = finish(teacher.score(rollouts))
    seconds = time.perf_counter() - started
    own, started = finish(student.inspect(rollouts, 0)), time.perf_counter()
    part = Part("from_teacher", rollouts, edge.weight, score, teacher_version=score.version)
    skipped = bool(finish(student.update([part]))["skipped"])
    seconds += time.perf_counter() - started
    who = f"{edge.student} taught by {edge.teacher}"
    return seconds, noise(who, rollouts, own, score, "the teacher's, after one step of all, differ", skipped=skipped)
