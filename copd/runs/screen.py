"""The run on a person's screen: the plan, a live view of what it does, the result. In a file: a line for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from copd.assemble.plan import Plan
from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import Accuracy, columns_of
from copd.runs.numbers import GIB, clock, number, roughly
from copd.runs.remaining import TRAINING, Remaining
from copd.runs.runlog import REPORT
from copd.runs.stages import Stages
from copd.runs.tables import accuracy_table
from copd.schedule import Phase, Position, Schedule
from copd.system.processes import Memory, peak
from copd.types import MERGED

ESTIMATE_AFTER = 3
"""Number of steps before the time of the whole run is estimated."""
Metrics = Mapping[str, float]


class Screen:
    """Shows a run through rich: live on a terminal; in a file, a plain line for each step and each stage around them.

    No line in a file is wrapped, whatever its length.
    """

    def __init__(self, console: Console | None = None, imports_began: float | None = None) -> None:
        """`imports_began`: the reading of `time.perf_counter` from which imports count as a stage of the start."""
        self.console = console or Console()
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._plan: Plan | None = None
        self._remaining: Remaining | None = None
        self._stages = Stages()
        if imports_began is not None:
            self._stages.spent("imports", time.perf_counter() - imports_began)
        self._rows: dict[str, Metrics] = {}
        self._pending: dict[int, dict[str, Metrics]] = {}
        self._overlap = ""
        self._first_step = self._step = 0
        self._estimated = False
        self._clock = time.perf_counter()
        self._peak: Callable[[], Memory] = peak

    def planned(self, folder: Path, method: str, remaining: Remaining) -> None:
        """Print the plan of the run, whose time is told by `remaining`."""
        self._remaining = remaining
        self._plan = plan = remaining.plan
        schedule, batches = plan.schedule, plan.batches
        title = escape(f"copd: {method} into {folder}")
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_row("branches", escape(", ".join(plan.branches)))
        taught = [f"{edge.teacher} teaches {edge.student} (weight {edge.weight:g})" for edge in plan.taught]
        table.add_row("edges", escape("\n".join(taught)) or "none")
        table.add_row("steps", steps_in_words(schedule))
        table.add_row(
            "rollouts",
            f"{plan.rollouts:,} in all, {batches.most_native} per branch and RLVR step, evaluation apart"
            + (", at most: batches are refilled only where groups have no signal" if batches.refill else ""),
        )
        self.console.print(table)

    def warn(self, message: str) -> None:
        """Print a warning that the run goes on from."""
        self.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

    def _line(self, text: str) -> None:
        """Print one line, never wrapped."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Screen:
        if self.console.is_terminal and self._live is None:
            self._live = Live(get_renderable=self._view, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[Callable[[], None]]:
        """What the run does in the block, shown while it lasts; yields what to call after each of `total` parts.

        Its seconds count for the line that says where the time before or after training went, and for the time left.
        """
        outermost = not (self._stages.training or self._stages.within)
        with ExitStack() as shown:
            if self._live is None:
                shown.enter_context(self)
            if outermost and self._live is None:
                self._line(f"{clock()}  {name}" + (f", {total} parts" if total > 1 else ""))
            yield shown.enter_context(self._stages.stage(name, total, partial(self._ended, total)))

    def _ended(self, parts: int, name: str, seconds: float) -> None:
        """A stage has ended. Its seconds are none of training."""
        self._clock += seconds
        if self._remaining is not None:
            self._remaining.took(name, seconds, self._remaining.units(name, parts))

    def spent(self, name: str, seconds: float) -> None:
        """Seconds of a stage before the first step or after the last."""
        self._stages.spent(name, seconds)

    def warmed(self, step: int, steps: int) -> None:
        """Print the progress of the supervised warm-up from time to time."""
        if (step + 1) % 100 == 0 or step + 1 == steps:
            self._line(f"warm-up step {step + 1:,} of {steps:,}")

    def started(self, first_step: int, peak: Callable[[], Memory] = peak) -> None:
        """Training starts at this step, and time is counted from here on. `peak` gives the most memory held so far."""
        self._peak = peak
        self._first_step = self._step = first_step
        self._pending.clear()
        self._line(f"before the first step: {self._stages.summary()}")
        if first_step:
            self._line(f"goes on after step {first_step}")
        self._stages.training = True
        self._clock = time.perf_counter()

    def trained(self) -> None:
        """Training has ended: what follows is merging, evaluation and the report."""
        self._stages.training = False

    def updated(self, branch: str, step: int, position: Position, metrics: Metrics) -> None:
        """A branch has made an update. A step is done once all branches that it trains have made theirs."""
        assert self._plan is not None
        self._rows[branch] = metrics
        self._pending.setdefault(step, {})[branch] = metrics
        while found := self._whole(self._step):
            del self._pending[self._step]
            self._stepped(self._plan.schedule.position(self._step), found)

    def _whole(self, step: int) -> Mapping[str, Metrics]:
        """The updates of a step, if all its branches have made theirs."""
        assert self._plan is not None
        found = self._pending.get(step, {})
        if not found or set(found) < set(self._plan.trained(self._plan.schedule.position(step).phase)):
            return {}
        return found

    def _stepped(self, position: Position, updates: Mapping[str, Metrics]) -> None:
        """The next step is done: its time is taken, and in a file its line is written."""
        assert self._plan is not None
        assert self._remaining is not None
        now = time.perf_counter()
        seconds, self._clock = max(1e-9, now - self._clock), now
        self._remaining.took(TRAINING, seconds, self._plan.step_cost(self._step))
        self._step += 1
        if not self._live:
            rewards = ", ".join(
                f"{name} {told(reward_of(updates[name]))}" for name in self._plan.branches if name in updates
            )
            speed = number(self._tokens(position.phase, updates) / seconds)
            self._line(f"{clock()}  {self._place(position)}  reward {rewards}  {speed} tokens/s  {self._left()}")
        if not self._estimated and self._step >= self._first_step + ESTIMATE_AFTER:
            self._estimated = True
            self._line(self._estimate())

    def _tokens(self, phase: Phase, updates: Mapping[str, Metrics]) -> float:
        """Tokens of all responses that a step was trained on."""
        assert self._plan is not None
        batches, total = self._plan.batches, 0.0
        for metrics in updates.values():
            for name, length in metrics.items():
                part, _, what = name.partition("/")
                if what == "response_length":
                    native = part == "native" or phase is Phase.REPLAY
                    total += length * (batches.native if native else batches.per_edge)
        return total

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
            self._line(f"{clock()}  {self._overlap}")

    def evaluated(self, table: Sequence[Accuracy]) -> None:
        if self._live:
            self.console.print(accuracy_table(table, f"validation after step {self._step}", intervals=False))
            return
        columns = columns_of([cell.capability for cell in table])
        for model in dict.fromkeys(cell.model for cell in table):
            found = {cell.capability: cell.greedy.value for cell in table if cell.model == model}
            right = ", ".join(f"{name} {100 * found[name]:.1f} %" for name in columns)
            self._line(f"{clock()}  validation after step {self._step}  {model}: {right}")

    def result(self, table: Sequence[Accuracy], split: str) -> None:
        """Print the final table, which is about the problems of a split."""
        self.console.print(
            accuracy_table(table, f"greedy accuracy on {split} problems, %, with 95 % intervals over problems"),
            crop=False,
        )

    def finished(self, folder: Path, auto_class: str | None) -> None:
        """Print where everything is and how to go on. `auto_class` loads the merged model, if there is one."""
        if spent := self._stages.summary():
            self._line(f"after the last step: {spent}")
        self._line(f"report: {folder / REPORT}")
        if auto_class is not None:
            model = folder / MERGED
            self._line(f"merged model: {model}")
            self._line(f"use it: {auto_class}.from_pretrained({str(model)!r})")

    def _left(self) -> str:
        """The time that the whole run still needs."""
        seconds = self._remaining.seconds(self._step) if self._remaining else {}
        return f"about {roughly(sum(seconds.values()))} left" if seconds else "time left unknown"

    def _estimate(self) -> str:
        """Time left and memory. Every phase fills its micro-batches alike, so the memory held so far is about all."""
        assert self._remaining is not None
        works = {work: roughly(spent) for work, spent in self._remaining.seconds(self._step).items() if spent}
        parts = ", ".join(f"{work} {spent}" for work, spent in works.items())
        return f"expected: {self._left()} ({parts}), memory about {memory_in_words(self._peak())}"

    def _place(self, position: Position) -> str:
        assert self._plan is not None
        schedule = self._plan.schedule
        return (
            f"cycle {position.cycle + 1}/{schedule.cycles} {position.phase.value}  step {self._step}/{schedule.steps}"
        )

    def _view(self) -> RenderableType:
        stage = self._stages.told
        doing = stage or ("training" if self._stages.training else "going on")
        self._spinner.update(text=f"{escape(doing)} ...")
        if self._plan is None or not self._step or not self._stages.training:
            return self._spinner
        head = f"{self._place(self._plan.schedule.position(self._step - 1))}  {self._left()}"
        table = Table("branch", "reward", "groups with signal", "entropy", "length", "mean |delta|", "tokens/s")
        for branch, metrics in self._rows.items():
            deltas = [value for name, value in metrics.items() if name.endswith("/delta_abs")]
            shown = [metrics.get(f"native/{n}") for n in ("groups_with_signal", "entropy", "response_length")]
            shown = [reward_of(metrics), *shown, fmean(deltas) if deltas else None, metrics["tokens_per_second"]]
            table.add_row(escape(branch), *map(told, shown))
        bar = ProgressBar(total=self._plan.schedule.steps, completed=self._step)
        return Group(head, bar, table, self._overlap, self._spinner)


def reward_of(metrics: Metrics) -> float | None:
    """The reward of a branch's own rollouts; of an update without, the mean over its lessons."""
    lessons = [value for name, value in metrics.items() if name.startswith("from_") and name.endswith("/reward")]
    return metrics.get("native/reward", fmean(lessons) if lessons else None)


def told(value: float | None) -> str:
    """A number in a table; a dash for one that is not there."""
    return "-" if value is None else number(value)


def steps_in_words(schedule: Schedule) -> str:
    """The steps of each phase of a cycle, where cycles differ also those of the first and the last."""
    steps = "step" if schedule.rl_steps == 1 else "steps"
    one = f"{schedule.cycles} x ({schedule.rl_steps} {steps} of RLVR + {schedule.opd_steps} of OPD"
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
    gpus = ", ".join(f"{gpu / GIB:.1f}" for gpu in held.gpus)
    return f"{held.machine / GIB:.1f} GiB" + (f", on GPUs {gpus} GiB" if gpus else "")
