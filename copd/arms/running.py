"""Running jobs as processes of their own, as many at once as there are cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from copd.arms.jobs import Job
from copd.arms.outcomes import Outcome, outcome_of, outcome_path, write_outcome
from copd.assemble.plan import make_plan
from copd.errors import CopdError
from copd.report.words import counted
from copd.system.processes import end_with_parent

POLL_SECONDS = 0.5


class RunningJob(Protocol):
    """A job on its way, wherever it runs."""

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        ...

    def terminate(self) -> None:
        """Let it stop with a checkpoint."""
        ...

    def wait(self) -> object:
        """Return once it has ended."""
        ...


Launch = Callable[[Sequence[str], Path], RunningJob]
"""Starts `copd` with these arguments; what it says is added to the file."""


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command line of `copd` with these arguments."""
    return [sys.executable, "-m", "copd", *arguments]


def one_thread() -> dict[str, str]:
    """The environment of a job that has one core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def launch_here(arguments: Sequence[str], log: Path) -> RunningJob:
    """Start `copd` as a process of this machine that has one core."""
    return started(command_of(arguments), log, one_thread())


def launch_whole(arguments: Sequence[str], log: Path) -> RunningJob:
    """Start `copd` as a process that places its branches itself."""
    return started(command_of(arguments), log)


def started(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A command as a process. What it says is added to the file. `env`: its environment, by default this one.

    Signals of a terminal do not reach it: the caller tells it to stop, once. It gets SIGTERM if the caller is killed.
    """
    with log.open("ab") as lines:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


@dataclass
class Progress:
    """What has become of the jobs so far, `workers` at once; `tell` prints a line."""

    tell: Callable[[str], None]
    workers: int
    waiting: list[Job]
    outcomes: dict[str, Outcome]
    running: dict[str, tuple[Job, RunningJob, float]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    spent: float = 0.0
    made: int = 0

    def left(self) -> str:
        """The time left by the jobs of this call, in words."""
        open_jobs = [*self.waiting, *(job for job, *_ in self.running.values())]
        if not self.made:
            return f"{len(open_jobs)} jobs left"
        rollouts = sum(own_rollouts(job) for job in open_jobs)
        minutes = rollouts * self.spent / self.made / self.workers / 60
        return f"{len(open_jobs)} jobs left, about {in_minutes(minutes)} minutes"


def in_minutes(minutes: float) -> str:
    """Minutes as people read them: whole ones from ten on."""
    return f"{minutes:.0f}" if minutes >= 10 or not minutes else f"{minutes:.1f}" if minutes >= 0.1 else "less than 0.1"


def own_rollouts(job: Job) -> int:
    """Rollouts that the job itself makes: without those of experts that it takes over."""
    plan = make_plan(job.recipe)
    before = plan.schedule.steps_before_exchange * plan.costs.rl_step if job.needs else 0
    return plan.rollouts - before


def missing_of(jobs: Sequence[Job], done: Collection[str]) -> list[Job]:
    """The jobs that are still to be run: arms without an outcome, and the experts that these begin with."""
    needed = {job.needs.name for job in jobs if job.needs and job.name not in done}
    return [job for job in jobs if job.name not in done and (job.arm or job.name in needed)]


def run_jobs(
    jobs: Sequence[Job],
    there: Mapping[str, Outcome],
    out: Path,
    workers: int,
    tell: Callable[[str], None],
    launch: Launch = launch_here,
) -> Progress:
    """Run all jobs whose outcome is not among those `there`. A job that fails is told of, and the others go on.

    Runs are in `out`/runs, outcomes in `out`/results. If the call is interrupted, the runs that were on their way stop
    with a checkpoint, from which the next call goes on.
    """
    runs, results = out / "runs", out / "results"
    progress = Progress(tell, workers, missing_of(jobs, there), dict(there), done=set(there), skipped=len(there))
    if changed := [job for job in jobs if job.arm and job.name not in progress.done and _has_outcome(job, results)]:
        tell(
            f"{counted(len(changed), 'result')} of other settings (first {changed[0].name}) will be replaced; the old "
            "stay beside the new, as former-..."
        )
    if progress.waiting:
        tell(f"{counted(len(progress.waiting), 'job')} to run, {workers} at once; their runs and logs are in {runs}")
    try:
        while progress.waiting or progress.running:
            _start(progress, runs, launch)
            _collect(progress, runs, results)
            time.sleep(POLL_SECONDS)
    finally:
        for _, process, _ in progress.running.values():
            process.terminate()
        for _, process, _ in progress.running.values():
            process.wait()
    return progress


def _has_outcome(job: Job, results: Path) -> bool:
    return outcome_path(job, results).is_file()


def _start(progress: Progress, runs: Path, launch: Launch) -> None:
    for job in list(progress.waiting):
        if len(progress.running) >= progress.workers:
            return
        if job.needs and job.needs.name in progress.failed:
            progress.waiting.remove(job)
            progress.failed[job.name] = f"its experts failed ({job.needs.name})"
            progress.tell(f"{job.name}: not run: {progress.failed[job.name]}")
        elif job.needs is None or job.needs.name in progress.done:
            progress.waiting.remove(job)
            folder = job.folder(runs)
            folder.mkdir(parents=True, exist_ok=True)
            process = launch(job.arguments(runs), folder.with_name(f"{folder.name}.log"))
            progress.running[job.name] = (job, process, time.perf_counter())


def _collect(progress: Progress, runs: Path, results: Path) -> None:
    for name, (job, process, began) in list(progress.running.items()):
        status = process.poll()
        if status is None:
            continue
        del progress.running[name]
        seconds = time.perf_counter() - began
        folder = job.folder(runs)
        try:
            if status:
                raise CopdError(f"exit status {status}: {_last_line(folder.with_name(f'{folder.name}.log'))}")
            if job.arm:
                outcome = outcome_of(job, folder)
                write_outcome(outcome_path(job, results), outcome)
                progress.outcomes[name] = outcome
        except CopdError as error:
            progress.failed[name] = str(error)
            progress.tell(f"{name}: FAILED: {error}")
            continue
        progress.done.add(name)
        progress.spent, progress.made = progress.spent + seconds, progress.made + own_rollouts(job)
        progress.tell(f"{name}: done in {seconds / 60:.1f} minutes; {progress.left()}")


def _last_line(log: Path) -> str:
    try:
        said = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"its log cannot be read: {error}"
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
