"""Whole runs, by the command line, on a real disk that is too small or read-only: a tmpfs in a namespace of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from subprocess import CompletedProcess

import pytest
from test_run import HARDLY_MEASURED, SMALL, TWO_BRANCHES, record

from copd.commands.train import train
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import verify_checkpoint
from copd.system.files import sha256

CHANGES = [*SMALL, TWO_BRANCHES % 1.0, "schedule={cycles: 1, rl_steps: 2, opd_steps: 1}", HARDLY_MEASURED]
COPD = (sys.executable, "-m", "copd")
MIB, PAGE = 2**20, os.sysconf("SC_PAGE_SIZE")


class Disk:
    """A small file system: at `folder` for the commands that `run` on it, at `seen` for this process."""

    def __init__(self, folder: Path, holder: int) -> None:
        self.folder, self.seen = folder, Path(f"/proc/{holder}/root{folder}")
        self._enter = ["nsenter", "--preserve-credentials", "--user", "--mount", f"--target={holder}"]

    def run(self, *command: object) -> CompletedProcess[str]:
        with self.begin(*command) as begun:
            said = begun.communicate(timeout=120)
        return CompletedProcess(begun.args, begun.returncode, *said)

    def begin(self, *command: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        words, pipe = [*self._enter, *map(str, command)], subprocess.PIPE
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)

    def copd(self, *words: object) -> CompletedProcess[str]:
        return self.run(*COPD, *words)

    def mount(self, *words: object) -> None:
        done = self.run("mount", *words)
        assert done.returncode == 0, done.stderr

    def remount(self, option: str) -> None:
        """Change one option; the source is named so that `mount` adds none that it reads of another namespace."""
        self.mount("-o", f"remount,{option}", "none", self.folder)

    def leave_free(self, free: int) -> None:
        """Make the disk as large as what it holds and `free` bytes."""
        found = os.statvfs(self.seen)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        self.remount(f"size={used + free}")


@contextmanager
def mounted(folder: Path) -> Iterator[Disk | str]:
    """A disk over a folder, in namespaces that end with the block; where the system grants none, its reason."""
    script = 'mount -t tmpfs -o size=1m none "$1" && echo mounted && exec cat'
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["unshare", "-rm", "sh", "-c", script, "sh", str(folder)], **pipes) as holder:
        found = Disk(folder, holder.pid)
        if holder.stdout.readline() != "mounted\n":
            yield holder.communicate()[1].strip()
        elif (entered := found.run("true")).returncode:
            yield entered.stderr.strip()
        elif not os.access(found.seen, os.W_OK):
            yield f"{found.seen} is closed to this process"
        else:
            yield found


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """A disk of 1 MiB; skipped where users may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if absent := [tool for tool in ("unshare", "nsenter") if not which(tool)]:
        pytest.skip(f"no disk can be mounted here: {absent[0]} is missing")
    with mounted(folder) as found:
        if isinstance(found, str):
            pytest.skip(f"no disk can be mounted here: {found}")
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return train(load_recipe("demo-paper", CHANGES), tmp_path_factory.mktemp("undisturbed") / "run")


def contents(folder: Path) -> dict[str, str | None]:
    """Every path below a folder, with the digest of a file."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: sha256(path) if path.is_file() else None for name, path in paths.items()}


def pages(folder: Path) -> int:
    """Bytes that the files of models below a folder take on the disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*.*"))


def whole_steps(folder: Path) -> list[int]:
    """The steps of a run's checkpoints, each of which must be whole, with nothing beside them."""
    return [verify_checkpoint(each).step for each in sorted((folder / "checkpoints").iterdir())]


def assert_refused(done: CompletedProcess[str], status: int, where: str, reason: str) -> None:
    """The command ended with this status, and with one line of error that begins with the place."""
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.startswith(f"error: {where}")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_whose_disk_fills_up_again_and_again_ends_as_if_undisturbed_once_there_is_room(undisturbed, disk):
    run, seen = disk.folder / "run", disk.seen / "run"
    models = sum(pages(undisturbed / name) for name in ("branches", "merged"))
    stages = {  # where the disk is full, how much is free before, and the steps that then have a checkpoint
        f"checkpoint of step 3 cannot be written to {run / 'checkpoints'}": (70 * MIB, [1, 2]),
        f"{run / '.passing-'}": (42 * MIB, [1, 2, 3]),
        f"{run / 'branches'}": (models, [1, 2, 3]),
        f"{run / 'report.html'}": (models + 8 * PAGE, [1, 2, 3]),
    }
    for where, (free, steps) in stages.items():
        disk.run("rm", "-rf", run / "branches", run / "merged")  # else weights are written beside those they replace
        disk.leave_free(free)
        assert_refused(disk.copd("train", "demo-paper", *CHANGES, "--out", run, "--resume"), 1, where, "No space left")
        assert whole_steps(seen) == steps
        assert not list(seen.rglob(".*"))
    disk.leave_free(MIB)
    done = disk.copd("train", "--out", run, "--resume")
    assert done.returncode == 0, done.stderr
    assert (seen / "report.html").is_file()
    assert record(seen) == record(undisturbed)
    for name in ("samples.jsonl", "answers.jsonl", "merged/model.safetensors"):
        assert (seen / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
def test_a_read_only_folder_is_named_and_nothing_in_it_changes(undisturbed, stopped, disk):
    run, seen = disk.folder / "run", disk.seen / "run"
    disk.leave_free(120 * MIB)
    assert disk.run("cp", "-r", undisturbed, run).returncode == 0
    assert disk.run("rm", "-r", run / "checkpoints" / "step-00000003").returncode == 0
    stopped(seen)
    before, checkpoints = contents(seen), contents(seen / "checkpoints")
    disk.remount("ro")
    done = disk.copd("train", "--out", run, "--resume")
    assert_refused(done, 2, f"--out {run}: cannot be written", "Read-only file system")
    assert contents(seen) == before
    disk.remount("rw")
    disk.mount("--bind", run / "checkpoints", run / "checkpoints")
    disk.mount("-o", "remount,bind,ro", run / "checkpoints")
    done = disk.copd("train", "--out", run, "--resume")
    assert_refused(done, 1, f"checkpoint of step 3 cannot be written to {run / 'checkpoints'}", "Read-only file system")
    assert whole_steps(seen) == [1, 2]
    assert contents(seen / "checkpoints") == checkpoints


@pytest.mark.slow
def test_checkpoints_that_turn_read_only_during_a_run_end_it_and_it_goes_on_once_they_do_not(undisturbed, disk):
    run, seen = disk.folder / "run", disk.seen / "run"
    checkpoints = run / "checkpoints"
    disk.leave_free(300 * MIB)
    with disk.begin(*COPD, "train", "demo-paper", *CHANGES, "--out", run) as begun:
        while not (seen / "checkpoints" / "step-00000001" / "manifest.json").is_file():
            assert begun.poll() is None, begun.communicate()
            time.sleep(0.01)
        disk.mount("--bind", checkpoints, checkpoints)
        disk.mount("-o", "remount,bind,ro", checkpoints)
        said = begun.communicate(timeout=120)
    (step,) = whole_steps(seen)[-1:]
    done = CompletedProcess(begun.args, begun.returncode, *said)
    assert_refused(
        done, 1, f"checkpoint of step {step + 1} cannot be written to {checkpoints}", "Read-only file system"
    )
    assert disk.run("umount", checkpoints).returncode == 0
    done = disk.copd("train", "--out", run, "--resume")
    assert done.returncode == 0, done.stderr
    assert record(seen) == record(undisturbed)
    assert (seen / "merged" / "model.safetensors").read_bytes() == (
        undisturbed / "merged" / "model.safetensors"
    ).read_bytes()
