"""How the critical path of CoPD grows with the branches: the algorithm itself, on branches that only take time.

    python studies/scaling.py              the table of docs/cluster.md and its picture, from studies/scaling.json
    python studies/scaling.py RUN --keep   a table from the seconds of a run, which are kept in studies/scaling.json

A branch answers its calls one after the other. A call takes the seconds of its rollouts, by activity and phase, times a
lognormal factor of mean 1. A clock that jumps stands in for the real one.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import selectors
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log2
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from copd.algorithm import copd
from copd.assemble.plan import make_plan
from copd.measure.ledger import ACTIVITIES
from copd.recipe.reading import make_recipe
from copd.report.figures import plain_axes
from copd.report.svg import series
from copd.runs.checkpoint import CHECKPOINTS, step_folders
from copd.runs.saved import manifest_of, recipe_of
from copd.schedule import Batches, Phase, Schedule, Stretch
from copd.topology import Edge, full, hub
from copd.types import Part

ROOT = Path(__file__).parents[1]
KEPT, PICTURE = ROOT / "studies" / "scaling.json", ROOT / "docs" / "scaling.svg"
COUNTS = (2, 3, 4, 8, 16, 32, 64)
DOUBLED = 1.7
"""A branch on twice the ranks is so many times as fast. An assumption: ranks were never measured on cards."""
SCHEDULE, BATCHES = Schedule(cycles=1, rl_steps=15, opd_steps=10), Batches(24, 8, 12, 8)


@dataclass(frozen=True)
class Times:
    """Seconds per rollout of each kind of branch, by PHASE/ACTIVITY, the deviation of their logarithm, and the run."""

    branches: Sequence[Mapping[str, float]]
    spread: float = 0.0
    command: str = ""


class _Clock(selectors.SelectSelector):
    """Time that passes only while everybody waits, and then at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop(clock := _Clock())
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    return loop


class Timed:
    """A branch as the algorithm knows it. Its rollouts are numbers of rollouts."""

    def __init__(self, name: str, times: Mapping[str, float], spread: float, schedule: Schedule, speed: float) -> None:
        self.name = self.capability = name
        self.phase, self.until, self.busy = "", 0.0, 0.0
        self._times, self._spread, self._schedule, self._speed = times, spread, schedule, speed
        self._draws, self._line = random.Random(name), asyncio.Lock()

    async def _compute(self, activity: str, rollouts: int) -> int:
        async with self._line:
            factor = self._draws.lognormvariate(-(self._spread**2) / 2, self._spread)
            seconds = rollouts * self._times[f"{self.phase}/{activity}"] * factor / self._speed
            await asyncio.sleep(seconds)
            self.busy += seconds
            self.until = asyncio.get_running_loop().time()
        return rollouts

    async def collect(self, task: str, step: int, prompts: int, each: int, *, visit: bool = False) -> int:
        self.phase = self._schedule.position(step).phase.value
        return await self._compute("collect_seconds", prompts * each)

    async def score(self, rollouts: int) -> int:
        return await self._compute("score_seconds", rollouts)

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        await self._compute("update_seconds", sum(part.rollouts for part in parts))  # type: ignore[misc]
        return {}


@dataclass
class Found:
    """The critical path by phase, and the seconds that all branches together work and wait, in two ways.

    `scores`: before a branch's last call of a stretch, for scores, its own or those that it owes. `barrier`: after it.
    """

    branches: Sequence[Timed]
    meet_every: int
    meet_after: Collection[int] = ()
    path: dict[str, float] = field(default_factory=dict)
    work: float = 0.0
    scores: float = 0.0
    barrier: float = 0.0

    def may_begin(self, step: int) -> bool:
        return True

    def updated(self, branch: str, step: int, metrics: dict[str, float]) -> None:
        pass

    async def met(self, stretch: Stretch) -> None:
        now, before = asyncio.get_running_loop().time(), self.seconds
        self.path[stretch.phase.value] = self.path.get(stretch.phase.value, 0.0) + now - before
        for branch in self.branches:
            self.work += branch.busy
            self.barrier += now - branch.until
            self.scores += branch.until - before - branch.busy
            branch.busy = 0.0

    @property
    def seconds(self) -> float:
        """The critical path."""
        return sum(self.path.values())

    def share(self, seconds: float) -> float:
        """Of the seconds of all branches: that of work is the efficiency."""
        return seconds / (len(self.branches) * self.seconds)


def simulated(
    names: Sequence[str],
    edges: Sequence[Edge],
    times: Times,
    schedule: Schedule = SCHEDULE,
    batches: Batches = BATCHES,
    meet_every: int = 25,
    ranks: int = 1,
) -> Found:
    """The algorithm on branches that take these times in turn, each on so many ranks."""
    kinds, speed = times.branches, DOUBLED ** log2(ranks)
    branches = {n: Timed(n, kinds[i % len(kinds)], times.spread, schedule, speed) for i, n in enumerate(names)}
    found = Found(tuple(branches.values()), meet_every)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(copd(branches, edges, schedule, batches, found))  # type: ignore[arg-type]
    return found


def measured(run: Path) -> tuple[Times, dict[str, float], Found]:
    """The times of a run, the critical path of its ledger by phase, and the path of the algorithm with these times.

    The spread is what the branches of a step do not share: where all are slow together, none waits for another.
    """
    recipe = make_recipe(dict(recipe_of(run)))
    plan, folders = make_plan(recipe), step_folders(run / CHECKPOINTS)
    if sorted(folders) != [*range(1, plan.schedule.steps + 1)]:
        sys.exit(f"{run}: lacks checkpoints; train with checkpoint.every_steps=1 checkpoint.keep_last=1000")
    notes = [json.loads((folders[step] / "manifest.json").read_text())["notes"] for step in sorted(folders)]
    counts_SKA = np.array([[[note["counts"][n][a] for a in ACTIVITIES] for n in plan.learners] for note in notes])
    seconds_SKA = np.diff(counts_SKA, axis=0, prepend=0)
    phase_S = np.array([plan.schedule.position(step).phase.value for step in range(len(notes))])
    kinds: list[dict[str, float]] = [{} for _ in plan.learners]
    variances = []
    for phase in np.unique(phase_S).tolist():
        edges = plan.edges if phase == Phase.OPD.value else ()
        for a, activity in enumerate(ACTIVITIES):
            seconds_SK, scores = seconds_SKA[phase_S == phase, :, a], activity == "score_seconds"
            for k, name in enumerate(plan.learners):
                lessons = plan.batches.per_edge * sum(name == (e.teacher if scores else e.student) for e in edges)
                rollouts = lessons + (0 if scores else plan.batches.native)
                kinds[k][f"{phase}/{activity}"] = seconds_SK[:, k].mean() / max(1, rollouts)
            if seconds_SK.all() and min(seconds_SK.shape) > 1:
                log_SK = np.log(seconds_SK)
                own_SK = log_SK - log_SK.mean(0) - log_SK.mean(1, keepdims=True) + log_SK.mean()
                variances.append((own_SK**2).sum() / np.prod(np.array(own_SK.shape) - 1))
    command = re.sub(r" --out \S+", "", str(manifest_of(run)["command"]))
    times = Times(kinds, float(np.sqrt(np.mean(variances))), command)
    ran = (plan.learners, plan.edges, times, plan.schedule, plan.batches)
    return times, notes[-1]["ledger"]["critical_path"], simulated(*ran, recipe.checkpoint.every_steps)


def neighbours(names: Sequence[str], weight: float) -> tuple[Edge, ...]:
    """Every branch is taught by those before and after it in a ring: `topology.edges` of a recipe."""
    around = {name: {names[i - 1], names[(i + 1) % len(names)]} for i, name in enumerate(names)}
    return tuple(Edge(name, each, weight / len(two)) for name, two in around.items() for each in sorted(two))


def cycles(times: Times) -> dict[tuple[str, int], Found]:
    """One cycle by topology and number of branches. `shared`: all teachers of the hub share one teacher's prompts."""
    found = {}
    for count in COUNTS:
        names = [f"branch {i}" for i in range(count)]
        for topology in (hub, full, neighbours):
            found[topology.__name__, count] = simulated(names, topology(names, 1.0), times)
        shared = replace(BATCHES, opd_prompts=max(1, BATCHES.opd_prompts // (count - 1)))
        found["hub, shared", count] = simulated(names, hub(names, 1.0), times, batches=shared)
    return found


def alike(times: Times, count: int = 3) -> Found:
    """One cycle of all pairs, with branches that all have the mean times: what is lost to waiting alone."""
    mean = {call: float(np.mean([kind[call] for kind in times.branches])) for call in times.branches[0]}
    names = [f"branch {i}" for i in range(count)]
    return simulated(names, full(names, 1.0), replace(times, branches=[mean]))


def picture(found: Mapping[tuple[str, int], Found], out: Path) -> None:
    """The critical path over the number of branches."""
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(name for name, _ in found)):
        path = [found[name, count].seconds for count in COUNTS]
        axes.loglog(COUNTS, path, label=name, linewidth=1.5, markersize=5, **series(number))
    axes.set_xticks(COUNTS, map(str, COUNTS))
    axes.minorticks_off()
    axes.set_ylabel("critical path of a cycle, s")
    axes.legend(frameon=False)
    plain_axes(axes, "branches, one rank each")
    with matplotlib.rc_context({"svg.hashsalt": out.stem}):  # the same picture is the same file
        figure.savefig(out, facecolor="white", metadata={"Date": None})


def main(run: str | None = None, keep: str | None = None) -> None:
    if run:
        times, ledger, predicted = measured(Path(run))
        for phase, seconds in ledger.items():
            print(
                f"{phase}: {seconds:.1f} s by the ledger, {predicted.path[phase]:.1f} s by the algorithm on its times"
            )
        if keep:
            KEPT.write_text(json.dumps(asdict(times), indent=1) + "\n")
    else:
        times = Times(**json.loads(KEPT.read_text()))
    found = cycles(times)
    rows = found | {("full, alike", 3): alike(times)}
    print(
        "| topology | branches | path, s | efficiency | wait for scores | wait at barriers | path on 4 ranks each, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for (name, count), one in rows.items():
        shares = " | ".join(f"{one.share(part):.0%}" for part in (one.work, one.scores, one.barrier))
        print(f"| {name} | {count} | {one.seconds:.0f} | {shares} | {one.seconds / DOUBLED ** log2(4):.0f} |")
    if not run:
        picture(found, PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
