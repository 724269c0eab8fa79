"""Real runs that get real signals: where they stop, with which status, and that nothing of them is lost."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGSTOP, SIGTERM

import pytest
import torch
from rich.console import Console
from small_base import easy
from test_run import SMALL, record

from copd.assemble.places import OwnProcesses
from copd.commands.train import train
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.lifecycle import GOES_ON, LOCK, Stopped, alone_in
from copd.runs.screen import Screen

CHANGES = [
    *SMALL,
    easy("text", "image"),
    "sampling.max_new_tokens=12",
    "schedule={cycles: 1, rl_steps: 6, opd_steps: 3}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}",
    "checkpoint={every_steps: 100, keep_last: 20}",
]

pytestmark = pytest.mark.usefixtures("undrawn", "foreground")


class Signalling(Screen):
    """A screen that sends a signal once it has been told something for the so-manyth time."""

    def __init__(self, send, told: str, times: int = 1, console: Console | None = None) -> None:
        super().__init__(console)
        tell = getattr(self, told)

        def tell_and_send(*arguments):
            nonlocal times
            tell(*arguments)
            times -= 1
            if times == 0:
                send()

        setattr(self, told, tell_and_send)


@pytest.fixture(scope="module")
def changes(small_base) -> list[str]:
    return [*CHANGES, f"model.path={small_base}"]


@pytest.fixture(scope="module")
def undisturbed(changes, tmp_path_factory) -> Path:
    return train(load_recipe("demo-paper", changes), tmp_path_factory.mktemp("undisturbed") / "run")


def assert_is(folder: Path, undisturbed: Path) -> None:
    assert record(folder) == record(undisturbed)
    for name in ("samples.jsonl", "answers.jsonl", "merged/model.safetensors"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


STOPS = {
    "measuring the base": ("measured", 1, None),
    "in RLVR": ("updated", 3, 2),
    "in RLVR, a branch having begun the next step": ("updated", 2, 4),
    "in the last step of RLVR": ("updated", 3, 6),
    "in OPD": ("updated", 1, 7),
    "at the end of training": ("evaluated", 1, 9),
    "going on": ("started", 1, 9),
    "concluding": ("result", 1, 9),
}
"""What the run has told, how often since it was begun or resumed, and after how many steps it then has a checkpoint."""
STOPS_OF_PROCESSES = {
    "in RLVR, one branch perhaps two steps ahead": ("updated", 3, {2, 3}),
    "measuring": ("measured", 1, {6}),
    "in OPD": ("updated", 1, {7}),
    "concluding": ("result", 1, {9}),
}
"""The same where branches are processes: one of several numbers of steps, as a branch may be ahead."""
SIGNALLED = """
import os, sys
import copd.runs.screen
from copd.cli import main
from test_stopping import Signalling

numbers, told, times = sys.argv.pop(1).split(), sys.argv.pop(1), int(sys.argv.pop(1))
copd.runs.screen.Screen = lambda **_: Signalling(lambda: [os.killpg(0, int(n)) for n in numbers], told, times)
main()
"""
"""`copd` of which all processes get signals at a moment of the run, however slow the machine is."""


def test_a_run_of_one_process_stopped_everywhere_ends_as_if_undisturbed(changes, undisturbed, tmp_path):
    folder, recipe = tmp_path / "run", load_recipe("demo-paper", changes)
    for number, (name, (told, times, step)) in zip([SIGTERM, SIGINT] * 4, STOPS.items(), strict=True):
        said = io.StringIO()
        screen = Signalling(partial(os.kill, os.getpid(), number), told, times, Console(file=said, width=300))
        with pytest.raises(Stopped) as stopped:
            train(recipe, folder, resume=True, screen=screen)
        assert stopped.value.code == 128 + number
        checkpoint = latest_checkpoint(folder / "checkpoints")
        saved = GOES_ON if checkpoint else "no checkpoint was saved yet; --resume begins at the first step"
        assert f"stopped by {number.name}; {saved}" in said.getvalue()
        assert (checkpoint and checkpoint.step) == step, name
        assert (folder / LOCK).exists() is False
    assert not (folder / "report.html").exists()
    assert_is(train(recipe, folder, resume=True), undisturbed)


def begun(folder: Path, *changes: str, program: Sequence[str] = ("-m", "copd")) -> subprocess.Popen:
    """`copd train` in a process of its own, which goes on with the run in the folder."""
    command = [sys.executable, *program, "train", "demo-paper", *changes, "--out", str(folder), "--resume"]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def signalled(folder: Path, numbers: Sequence[int], told: str, times: int, *changes: str) -> tuple[int, str]:
    """The status of such a run that all its processes are told to end, and what it said."""
    run = begun(folder, *changes, program=("-c", SIGNALLED, " ".join(map(str, map(int, numbers))), told, str(times)))
    said = run.communicate()[0]
    return run.returncode, " ".join(said.split())


@pytest.mark.slow
def test_a_run_of_several_processes_stopped_by_signals_to_all_of_them_ends_as_if_undisturbed(
    changes, undisturbed, tmp_path
):
    folder = tmp_path / "run"
    for number, (name, (told, times, stands)) in zip([SIGTERM, SIGINT] * 2, STOPS_OF_PROCESSES.items(), strict=True):
        status, said = signalled(folder, [number], told, times, *changes, "backend=processes")
        assert status == 128 + number, (name, said)
        assert f"stopped by {number.name}; --resume goes on from the last checkpoint" in said
        assert latest_checkpoint(folder / "checkpoints").step in stands, name
    assert not (folder / "report.html").exists()
    train(load_recipe("demo-paper", [*changes, "backend=processes"]), folder, resume=True)
    assert_is(folder, undisturbed)


@pytest.mark.parametrize("step", [1, pytest.param(7, marks=pytest.mark.slow, id="in OPD")])
def test_a_folder_in_use_is_refused_and_a_run_that_is_killed_goes_on_in_processes_as_if_undisturbed(
    changes, undisturbed, command, tmp_path, step
):
    folder = tmp_path / "run"
    run = begun(folder, *changes, "backend=processes", "checkpoint.every_steps=1")
    while not (folder / "checkpoints" / f"step-{step:08}" / "manifest.json").is_file():
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.01)
    run.send_signal(SIGSTOP)
    with pytest.raises(RecipeError, match="another process trains into it"):
        train(load_recipe("demo-paper", changes), folder, resume=True)
    run.kill()
    run.communicate()
    assert latest_checkpoint(folder / "checkpoints").step < 9
    assert not (folder / "report.html").exists()
    done = command("train", "--out", str(folder), "--resume")
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace("\n", "")
    assert f"merged model: {folder / 'merged'}" in said
    assert "use it: AutoModelForImageTextToText.from_pretrained(" in said
    assert_is(folder, undisturbed)


def test_a_second_signal_ends_a_run_at_once_without_a_checkpoint(changes, tmp_path):
    folder = tmp_path / "run"
    status, said = signalled(folder, [SIGTERM, SIGINT], "updated", 1, *changes)
    assert status == 130, said
    assert "stopped by" not in said
    assert latest_checkpoint(folder / "checkpoints") is None
    with alone_in(folder):
        pass


@pytest.mark.slow
def test_a_run_whose_branches_have_ended_before_base_and_merge_answer_as_on_a_card_ends_as_if_undisturbed(
    changes, undisturbed, tmp_path, monkeypatch
):
    """The first time the run breaks when the branches have ended; resumed, it has the same end."""
    recipe, breaks = load_recipe("demo-paper", [*changes, "backend=processes"]), [True]
    plainly = OwnProcesses.rounds

    def rounds(self, models):
        self._home = torch.device("cuda", 0)
        for number, together in enumerate(plainly(self, models)):
            if number and breaks:
                breaks.clear()
                raise InterruptedError
            yield together

    monkeypatch.setattr(OwnProcesses, "rounds", rounds)
    with pytest.raises(InterruptedError):
        train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert_is(tmp_path / "run", undisturbed)
