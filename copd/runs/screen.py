"""The run on a person's screen: the plan, a live view, the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from copd.assemble.plan import Plan
from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import Accuracy
from copd.runs.runlog import REPORT
from copd.runs.tables import accuracy_table
from copd.schedule import Phase, Position, Schedule
from copd.system.processes import Memory, peak
from copd.types import MERGED

ESTIMATE_AFTER = 3
"""Number of steps before the time of the whole run is estimated."""


class Screen:
    """Shows a run through rich: live on a terminal, line by line in a file."""

    def __init__(self, console: Console | None = None, imports_began: float | None = None) -> None:
        """`imports_began`: the reading of `time.perf_counter` from which imports count as a stage of the start."""
        self.console = console or Console()
        self._live: Live | None = None
        self._plan: Plan | None = None
        self._stages: dict[str, float] = {}
        if imports_began is not None:
            self.spent("imports", time.perf_counter() - imports_began)
        self._rows: dict[str, dict[str, float]] = {}
        self._overlap = ""
        self._position: Position | None = None
        self._first_step = self._step = 0
        self._steps: dict[str, int] = {}
        self._estimated = False
        self._clock = time.perf_counter()
        self._peak: Callable[[], Memory] = peak

    def planned(self, folder: Path, method: str, plan: Plan) -> None:
        """Print the plan of the run."""
        self._plan = plan
        schedule, batches = plan.schedule, plan.batches
        table = Table(title=f"copd: {method} into {folder}", show_header=False, title_justify="left")
        table.add_row("branches", ", ".join(plan.branches))
        taught = [f"{edge.teacher} teaches {edge.student} (weight {edge.weight:g})" for edge in plan.taught]
        table.add_row("edges", "\n".join(taught) or "none")
        table.add_row("steps", steps_in_words(schedule))
        table.add_row(
            "rollouts",
            f"{plan.rollouts:,} in all, {batches.most_native} per branch and RLVR step, evaluation apart"
            + (", at most: batches are refilled only where groups have no signal" if batches.refill else ""),
        )
        self.console.print(table)

    def warn(self, message: str) -> None:
        """Print a warning that the run goes on from."""
        self.console.print(f"[yellow]warning:[/] {escape(message)}")

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of the block for the line that says where the time before or after training went."""
        began = time.perf_counter()
        yield
        self.spent(name, time.perf_counter() - began)

    def spent(self, name: str, seconds: float) -> None:
        """Seconds of a stage before the first step or after the last."""
        self._stages[name] = self._stages.get(name, 0.0) + seconds

    def _print_stages(self, when: str) -> None:
        """Print the stages counted since the last such line, the longest first."""
        longest = sorted(self._stages.items(), key=lambda stage: -stage[1])
        said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest)
        self.console.print(f"{when}: {sum(self._stages.values()):.1f} s ({said})", soft_wrap=True)
        self._stages.clear()

    def warmed(self, step: int, steps: int) -> None:
        """Print the progress of the supervised warm-up from time to time."""
        if (step + 1) % 100 == 0 or step + 1 == steps:
            self.console.print(f"warm-up step {step + 1} of {steps}")

    def started(self, first_step: int, peak: Callable[[], Memory] = peak) -> None:
        """Training starts at this step, and time is counted from here on. `peak` gives the most memory held so far."""
        self._peak = peak
        self._first_step = self._step = first_step
        self._clock = time.perf_counter()
        self._print_stages("before the first step")
        if first_step:
            self.console.print(f"goes on after step {first_step}")

    def updated(self, branch: str, step: int, position: Position, metrics: dict[str, float]) -> None:
        assert self._plan is not None
        self._rows[branch], self._steps[branch] = metrics, step + 1
        learners = self._plan.learners if position.phase is Phase.RLVR else (branch,)
        if (slowest := min(self._steps.get(name, 0) for name in learners)) > self._step:
            self._step, self._position = slowest, position
        if not self._estimated and self._step >= self._first_step + ESTIMATE_AFTER:
            self._estimated = True
            self.console.print(self._estimate())
        if self._live:
            self._live.update(self._view())

    def measured(self, behaviour: Behaviour) -> None:
        k = max(behaviour.overlap)
        pairs = [
            f"{student}<-{teacher} {value:.2f}"
            for student, row in behaviour.overlap[k].items()
            for teacher, value in row.items()
            if student != teacher
        ]
        self._overlap = f"overlap@{k} (chance {behaviour.chance[k]:.2f}): {', '.join(pairs)}" if pairs else ""
        if not self._live and self._overlap:
            self.console.print(self._overlap)

    def evaluated(self, table: Sequence[Accuracy]) -> None:
        self.console.print(accuracy_table(table, f"validation after step {self._step}", intervals=False))

    def result(self, table: Sequence[Accuracy], split: str) -> None:
        """Print the final table, which is about the problems of a split."""
        self.console.print(
            accuracy_table(table, f"greedy accuracy on {split} problems, %, with 95 % intervals over problems")
        )

    def finished(self, folder: Path, auto_class: str | None) -> None:
        """Print where everything is and how to go on. `auto_class` loads the merged model, if there is one."""
        if self._stages:
            self._print_stages("after the last step")
        self.console.print(f"report: {folder / REPORT}", markup=False)
        if auto_class is not None:
            model = folder / MERGED
            self.console.print(f"merged model: {model}", markup=False)
            self.console.print(f"use it: {auto_class}.from_pretrained({str(model)!r})", markup=False)

    def _seconds_left(self) -> float:
        assert self._plan is not None
        done = sum(self._plan.step_cost(step) for step in range(self._first_step, self._step))
        left = sum(self._plan.step_cost(step) for step in range(self._step, self._plan.schedule.steps))
        return (time.perf_counter() - self._clock) * left / max(1, done)

    def _estimate(self) -> str:
        """Time left and memory. Every phase fills its micro-batches alike, so the memory held so far is about all."""
        minutes, memory = self._seconds_left() / 60, memory_in_words(self._peak())
        return f"expected: about {minutes:.1f} minutes of training left, memory about {memory}"

    def _view(self) -> RenderableType:
        if self._plan is None or self._position is None:
            return "measuring the base ..."
        total = self._plan.schedule.steps
        head = (
            f"cycle {self._position.cycle + 1}/{self._plan.schedule.cycles} · {self._position.phase.value} · "
            f"step {self._step}/{total} · {self._seconds_left() / 60:.1f} min left"
        )
        table = Table("branch", "reward", "groups with signal", "entropy", "length", "mean |delta|", "tokens/s")
        for branch, metrics in self._rows.items():
            deltas = [value for name, value in metrics.items() if name.endswith("/delta_abs")]
            shown = [metrics.get(f"native/{n}") for n in ("reward", "groups_with_signal", "entropy", "response_length")]
            shown += [sum(deltas) / len(deltas) if deltas else None, metrics["tokens_per_second"]]
            table.add_row(branch, *("-" if value is None else f"{value:.3g}" for value in shown))
        return Group(head, ProgressBar(total=total, completed=self._step), table, self._overlap)


def steps_in_words(schedule: Schedule) -> str:
    """The steps of each phase of a cycle, where cycles differ also those of the first and the last."""
    one = f"{schedule.cycles} x ({schedule.rl_steps} steps of RLVR + {schedule.opd_steps} of OPD"
    resting = {"replay": schedule.replay_steps, "consolidation": schedule.merge_steps}
    ends = " + ".join(f"{count} of {phase}" for phase, count in resting.items() if count)
    if ends and schedule.restart:
        one += f" + {ends}"
    words = [one + ")"]
    if schedule.first_rl_steps is not None:
        words.append(f"{schedule.first_rl_steps} of RLVR in the first")
    if ends and not schedule.restart:
        words.append(f"then {ends}")
    return ", ".join(words)


def memory_in_words(held: Memory) -> str:
    """GiB of the machine's memory, and of each GPU, if there are any."""
    gpus = ", ".join(f"{gpu / 2**30:.1f}" for gpu in held.gpus)
    return f"{held.machine / 2**30:.1f} GiB" + (f", on GPUs {gpus} GiB" if gpus else "")
