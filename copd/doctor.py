"""`copd doctor`: whatever would cost a long run dearly, looked at in a minute or two before it starts."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from copd.assemble import check_problems, load_policy, make_branch, make_tasks
from copd.branch import Branch
from copd.config import Recipe
from copd.errors import CopdError
from copd.maths.advantages import has_signal
from copd.model.parity import TOLERANCE_NATS, largest_difference
from copd.model.policy import Policy
from copd.runs.plan import Plan, make_plan
from copd.types import Part, Problem, Rollouts, Split, Task

Verdict = Literal["ok", "warning", "failed"]
PROBED = 16
"""Training problems per field that are answered."""
KINDS_PROBED = 3
SHOWN = 2
LEAST_SIGNAL = 0.1
"""Share of groups with signal below which a field will hardly be learned."""


@dataclass(frozen=True)
class Finding:
    """One check, its verdict and what was found."""

    check: str
    verdict: Verdict
    found: str


def examine(recipe: Recipe) -> Iterator[Finding]:
    """All checks in their order; one that cannot be made ends the examination as failed. Nothing is written.

    The recipe's own models, tasks and graders are used: training problems, and a few real steps on copies that are
    thrown away.
    """
    try:
        yield from machine()
        plan = make_plan(recipe)
        torch.set_num_threads(recipe.model.threads_per_branch)
        policy, tasks = load_policy(recipe), make_tasks(recipe)
        yield model(policy, recipe, plan)
        for warning in check_problems(policy, tasks, recipe.sampling.max_new_tokens):
            yield Finding("paths", "warning", warning)
        yield from agreement(policy, tasks)
        for name in tasks:
            yield from field(recipe, policy, tasks, name)
        yield estimate(recipe, policy, tasks, plan)
    except CopdError as error:
        yield Finding("stopped", "failed", str(error))


def machine() -> Iterator[Finding]:
    """Versions, cores, memory and disk."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("copd", "torch", "transformers"))
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {libraries}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("processors", "ok", f"{os.cpu_count()} cores; {', '.join(gpus) or 'no GPU'}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("memory and disk", "ok", f"{memory:.1f} GiB of memory, {free:.1f} GiB free in {Path.cwd()}")


def model(policy: Policy, recipe: Recipe, plan: Plan) -> Finding:
    """The base and what its checkpoints need on the disk."""
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    bytes_per_checkpoint = 12 * count * len(plan.branches)
    needed = bytes_per_checkpoint * (recipe.checkpoint.keep_last + 1)
    free = shutil.disk_usage(Path.cwd()).free
    return Finding(
        "model",
        "ok" if needed < free else "failed",
        f"{recipe.model.path}: {count / 1e6:.1f} M parameters, context {policy.context}, {policy.allowed_tokens} of "
        f"{len(policy.banned_V)} tokens allowed; checkpoints take {needed / 2**30:.2f} GiB at most",
    )


def agreement(policy: Policy, tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Per kind of input: placeholders, shared prefix, sampler against trainer, and a teacher equal to its student."""
    kinds: dict[str, list[Problem]] = {}
    for task in tasks.values():
        for problem in (task.problem(Split.TRAIN, i) for i in range(PROBED)):
            kinds.setdefault(problem.kind, []).append(problem)
    accepted = TOLERANCE_NATS[policy.autocast]
    for kind, problems in kinds.items():
        few = problems[:KINDS_PROBED]
        student, teacher = policy.clone(), policy.clone()
        lengths = [each.encoder.lengths(few) for each in (policy, student, teacher)]
        same = lengths[0] == lengths[1] == lengths[2]
        yield _judged(
            f"{kind}: prompts of sampler, student, teacher", same, f"{min(lengths[0])} to {max(lengths[0])} tokens"
        )
        if policy.shared_prefix:
            difference = largest_difference(policy, few)
            found = f"log-probs differ by at most {difference:.1e} nats (accepted: {accepted})"
            yield _judged(f"{kind}: shared prefix against plain forward", difference <= accepted, found)
        rollouts = _sampled(student, few)
        delta = teacher.score(rollouts).logp_NT - student.score(rollouts).logp_NT
        found = f"greatest |delta| {float(delta.abs().max()):.1e}"
        yield _judged(f"{kind}: a teacher equal to its student", float(delta.abs().max()) == 0, found)


def field(recipe: Recipe, policy: Policy, tasks: Mapping[str, Task], name: str) -> Iterator[Finding]:
    """Pass rate and signal of the base on one field, graded samples, noise against a delta, and the graders' speed."""
    branch = make_branch(recipe, policy, tasks, name, 0)
    problems = [tasks[name].problem(Split.TRAIN, i) for i in range(PROBED)]
    group = recipe.sampling.rollouts_per_prompt
    rollouts = branch.answer(problems, group, torch.Generator().manual_seed(recipe.seed))
    assert rollouts.reward_N is not None
    reward = float(rollouts.reward_N.mean())
    signal_N = has_signal(rollouts.reward_N, rollouts.prompt_of_N)
    share = len(rollouts.prompt_of_N[signal_N].unique()) / len(problems)
    cut = 1 - float(rollouts.finished_N.float().mean())
    found = (
        f"reward {reward:.2f}, {share:.0%} of groups with signal, {cut:.0%} cut by the limit "
        f"({len(problems)} prompts x {group})"
    )
    enough = share >= LEAST_SIGNAL
    advice = "" if enough else "; hardly anything to learn from: easier or harder problems, or longer responses"
    yield Finding(f"{name}: pass rate of the base", "ok" if enough else "warning", found + advice)
    texts = policy.texts(rollouts)
    for n in range(0, SHOWN * group, group):
        problem = problems[int(rollouts.prompt_of_N[n])]
        line = f"{problem.prompt!r} -> {texts[n]!r}; answer {problem.answer!r}, reward {float(rollouts.reward_N[n]):g}"
        yield Finding(f"{name}: sample", "ok", line)
    yield _noise(branch, rollouts, name)
    yield _grading_speed(branch, rollouts, name)


def _noise(branch: Branch, rollouts: Rollouts, name: str) -> Finding:
    """Sampler against trainer, beside what one update changes: a delta much smaller than the noise teaches nothing."""
    before = branch.inspect(rollouts).logp_NT
    noise = float((before - rollouts.logp_NT).abs().sum() / rollouts.mask_NT.sum())
    branch.update([Part("native", rollouts)])
    delta = float((branch.inspect(rollouts).logp_NT - before).abs().sum() / rollouts.mask_NT.sum())
    found = f"mean difference {noise:.1e} nats per token; one update changes {delta:.1e}"
    drowned = delta > 0 and noise > 0.1 * delta
    return Finding(f"{name}: sampler against trainer", "warning" if drowned else "ok", found)


def _grading_speed(branch: Branch, rollouts: Rollouts, name: str) -> Finding:
    seconds = _seconds(lambda: branch.graded(rollouts))
    return Finding(f"{name}: graders", "ok", f"{len(rollouts.tokens_NT) / seconds:,.0f} responses graded per second")


def estimate(recipe: Recipe, policy: Policy, tasks: Mapping[str, Task], plan: Plan) -> Finding:
    """Time and memory of the run, from one RLVR step of each field at its real size."""
    native = 0.0
    for index, name in enumerate(plan.fields):
        branch = make_branch(recipe, policy, tasks, name, index)
        native += _seconds(lambda branch=branch, name=name: _step(branch, name, recipe))
    per_rollout = native / (len(plan.fields) * recipe.sampling.prompts_per_step * recipe.sampling.rollouts_per_prompt)
    minutes = plan.rollouts * per_rollout / 60
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    found = (
        f"about {minutes:.0f} minutes of training for {plan.rollouts:,} rollouts of method {recipe.method}, evaluation "
        f"apart, all branches in turn; memory so far {peak:.1f} GiB"
    )
    return Finding("estimate", "ok", found)


def _step(branch: Branch, name: str, recipe: Recipe) -> None:
    sampling = recipe.sampling
    branch.update([Part("native", branch.collect(name, 0, sampling.prompts_per_step, sampling.rollouts_per_prompt))])


def _sampled(policy: Policy, problems: list[Problem]) -> Rollouts:
    return policy.sample(problems, rollouts_per_prompt=2, generator=torch.Generator().manual_seed(0))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _judged(check: str, good: bool, found: str) -> Finding:
    return Finding(check, "ok" if good else "failed", found)
