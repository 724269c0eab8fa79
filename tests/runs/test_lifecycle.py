"""A run is alone in its folder, and a signal ends it at a step at which all branches stand."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from copd.algorithm import copd
from copd.errors import RecipeError
from copd.runs.folder import STARTED, occupied
from copd.runs.lifecycle import LOCK, Stop, Stopped, alone_in, in_use
from copd.schedule import Batches, Schedule
from copd.system.signals import SIGNALS

BATCHES = Batches(prompts=1, rollouts_per_prompt=2, opd_prompts=1, opd_rollouts_per_prompt=2)
SCHEDULE = Schedule(cycles=2, rl_steps=6, opd_steps=2)
HOLDER = """
import sys, time
from pathlib import Path
from copd.runs.lifecycle import alone_in
with alone_in(Path(sys.argv[1])):
    print("alone", flush=True)
    time.sleep(600)
"""


def test_a_folder_belongs_to_one_process_until_that_is_killed(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "alone\n"
    with pytest.raises(RecipeError, match=f"--out {folder}: another process trains into it"), alone_in(folder):
        pass
    assert in_use(folder)
    holder.kill()
    holder.wait()
    assert (folder / LOCK).is_file()
    assert not in_use(folder)
    assert not occupied(folder, besides=STARTED)
    with alone_in(folder):
        pass


def test_a_folder_is_left_as_it_was_found(tmp_path):
    found, new, used = tmp_path / "found", tmp_path / "new" / "run", tmp_path / "used"
    found.mkdir()
    for folder in (found, new, used):
        with alone_in(folder):
            if folder is used:
                (folder / "manifest.json").write_text("{}")
    assert sorted(tmp_path.rglob("*")) == [found, used, used / "manifest.json"]


@pytest.mark.parametrize("name", ["file/run", "a" * 300], ids=["under a file", "of a name too long"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RecipeError, match=f"--out {tmp_path / name}: cannot be written"),
        alone_in(tmp_path / name),
    ):
        pass


def test_a_folder_whose_weights_could_not_be_read_again_is_refused_by_its_name(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(RecipeError, match=r"^--out '.*\\udcff': is not UTF-8; give a name that is$"), alone_in(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_run_folder_is_told(tmp_path):
    (tmp_path / "my.yaml").write_text("")
    with pytest.raises(RecipeError, match=r"my\.yaml: is a file; give a folder"), alone_in(tmp_path / "my.yaml"):
        pass


class Pacing:
    """A branch that takes so many turns of the loop for each call, and counts its updates."""

    def __init__(self, name: str, turns: int) -> None:
        self.name, self.capability, self.turns = name, name, turns
        self.updates = 0

    async def collect(self, *asked, visit=False):
        for _ in range(self.turns):
            await asyncio.sleep(0)

    async def update(self, parts):
        await self.collect()
        self.updates += 1
        return {}


class Signalled:
    """An observer as that of a run, whose process gets a signal before a branch begins the so-manyth step of all."""

    meet_every, meet_after = 4, ()

    def __init__(self, stop: Stop, branches: list[Pacing], after: int) -> None:
        self.stop, self.branches, self.after = stop, branches, after
        self.begun = 0
        self.furthest = self.furthest_before = 0

    def may_begin(self, step):
        if self.begun == self.after and not self.stop.asked:
            self.furthest_before = self.furthest
            os.kill(os.getpid(), signal.SIGTERM)
        if not self.stop.may_begin(step):
            return False
        self.begun += 1
        self.furthest = max(self.furthest, step)
        return True

    def updated(self, branch, step, metrics):
        pass

    async def met(self, stretch):
        last = self.stop.last_of(stretch.steps)
        assert [branch.updates for branch in self.branches] == [last + 1] * 3
        self.stop.leave_if_asked()
        self.stop.met_after(last)
        self.furthest = last + 1


@pytest.mark.parametrize("after", range(18))
@pytest.mark.parametrize("turns", [(1, 1, 1), (0, 5, 2), (7, 0, 1)])
def test_after_a_signal_all_branches_stand_at_the_furthest_step_that_one_had_begun(turns, after):
    branches = [Pacing(name, t) for name, t in zip("abc", turns, strict=True)]
    told = []

    stop = Stop(told.append)
    observer = Signalled(stop, branches, after)

    async def trained() -> None:
        with stop.after_step(0):
            await copd({b.name: b for b in branches}, (), SCHEDULE, BATCHES, observer)

    with pytest.raises(Stopped) as stopped, stop:
        asyncio.run(trained())
    assert stopped.value.code == 143
    assert {branch.updates for branch in branches} == {observer.furthest_before + 1}
    assert told == [
        "SIGTERM: stopping after this step, with a checkpoint; a second signal ends it at once",
        "stopped by SIGTERM; --resume goes on from the last checkpoint",
    ]


@pytest.mark.usefixtures("foreground")
def test_a_signal_after_the_branches_have_met_and_saved_nothing_lets_them_make_one_step_more():
    async def met() -> None:
        with stop.after_step(3):
            assert stop.may_begin(3)
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGINT)
            stop.met_after(3)
            assert stop.may_begin(4)
            assert not stop.may_begin(5)
            assert stop.last_of(range(4, 9)) == 4

    with pytest.raises(Stopped) as stopped, Stop(print) as stop:
        asyncio.run(met())
    assert stopped.value.code == 130


TWICE = """
import asyncio, os, signal, sys, time
from copd.runs.lifecycle import Stop
async def train():
    with stop.after_step(0):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        print("noted", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("went on", flush=True)
with Stop(print) as stop:
    asyncio.run(train())
"""


@pytest.mark.usefixtures("foreground")
def test_a_second_signal_ends_the_process_without_another_line_of_it():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "noted\n")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("foreground")
def test_a_signal_outside_of_training_stops_at_once_and_the_handlers_are_those_from_before(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Stopped) as stopped, Stop(print):
        os.kill(os.getpid(), number)
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_ctrl_c_for_a_job_in_the_foreground_does_not_stop_a_run_in_the_background():
    """A shell without job control starts a background job so that it ignores SIGINT, which goes to all processes."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop(print) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)
