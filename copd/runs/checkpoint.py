"""Checkpoints of all branches at one step. A checkpoint is complete or absent.

Each branch writes its own part into a temporary folder and flushes it to disk; no tensor is read here. The manifest,
with size and sha256 of every part, is the last file written. Then the folder is renamed. Older checkpoints are removed
only after that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any
from uuid import uuid4

from copd.errors import CheckpointError
from copd.runs.runlog import JsonLines
from copd.system.files import flush, sha256, with_usual_modes
from copd.types import StateFile

CHECKPOINTS = "checkpoints"
"""The folder of a run folder that holds its checkpoints."""
MANIFEST = "manifest.json"
WRITING = ".writing-"
"""What the names of folders begin with that may become checkpoints."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: the number of steps done, each branch's part, and the run's notes."""

    folder: Path
    step: int
    notes: dict[str, Any]
    branches: tuple[str, ...]

    def part(self, branch: str) -> Path:
        """The file that the branch wrote."""
        return part_of(self.folder, branch)


def part_of(folder: Path, branch: str) -> Path:
    """The file of a branch in the folder of a checkpoint."""
    return folder / f"{branch}.safetensors"


@contextmanager
def new_checkpoint(root: Path, step: int) -> Iterator[Path]:
    """A new folder under `root` in which the branches write their parts of the checkpoint of `step`.

    What killed processes began to write is removed before, and the folder after the block, unless `complete` has made
    it a checkpoint. Its name is new, so that a branch that was given up does not write into a later one. Raises
    CheckpointError, naming step and root, if the folder or a part cannot be written; all checkpoints are then
    untouched.
    """
    folder = root / f"{WRITING}{step:08d}-{uuid4().hex[:8]}"
    try:
        for left in root.glob(f"{WRITING}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"checkpoint of step {step} cannot be written to {root}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def complete(
    folder: Path,
    step: int,
    parts: Mapping[str, Sequence[StateFile]],
    notes: Mapping[str, Any],
    keep_last: int,
    beside: Collection[int] = (),
) -> Path:
    """Make a folder of `new_checkpoint` the checkpoint of `step`. Each branch has written its part and told it.

    Keep it, the `keep_last` - 1 before it, and those in `beside`. Later checkpoints, which a damaged attempt left, are
    removed too. Raises OSError if the manifest cannot be written, and CheckpointError if a part is not here as the
    branch told it.
    """
    root, final = folder.parent, folder.with_name(_name(step))
    written = [(branch, part) for branch, own in parts.items() for part in own]
    for branch, part in written:
        path = folder / part.name
        found = path.stat().st_size if path.is_file() else None
        if found != part.bytes:
            here = "not here" if found is None else f"{found} bytes long here"
            raise CheckpointError(
                f"{path}: branch {branch} wrote {part.bytes} bytes, but the file is {here}; the run folder must be on "
                "storage that all branches share"
            )
    with_usual_modes(folder)
    files = {part.name: {"bytes": part.bytes, "sha256": part.sha256} for _, part in sorted(written, key=_by_name)}
    manifest = {"step": step, "branches": list(parts), "notes": notes, "files": files}
    sealed = {"sha256": _seal(manifest), **manifest}
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=1), encoding="utf-8")
    for path in (folder / MANIFEST, folder):
        flush(path)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    flush(root)
    for steps, later in step_folders(root).items():
        if steps > step:
            shutil.rmtree(later, ignore_errors=True)
    remove_superseded(root, step, keep_last, beside)
    return final


def remove_superseded(root: Path, step: int, keep_last: int, beside: Collection[int] = ()) -> None:
    """Remove what nobody needs after the checkpoint of `step`, as far as the disk permits.

    This removes all checkpoints before it except the last `keep_last` - 1 and those in `beside`, and whatever a killed
    process began to write.
    """
    passing = [folder for steps, folder in sorted(step_folders(root).items()) if steps < step and steps not in beside]
    for folder in [*passing[: max(0, len(passing) - keep_last + 1)], *root.glob(f"{WRITING}*")]:
        shutil.rmtree(folder, ignore_errors=True)


def step_folders(root: Path) -> dict[int, Path]:
    """The checkpoints under `root`, whole or not, by their number of steps. Folders with other names do not count."""
    return {
        int(folder.name.removeprefix("step-")): folder
        for folder in root.glob("step-*")
        if re.fullmatch(r"step-[0-9]{8,}", folder.name)
    }


def latest_checkpoint(root: Path, warn: Callable[[str], None] = logger.warning) -> Checkpoint | None:
    """The newest checkpoint whose files all match their manifest; None if there are no checkpoints.

    Damaged checkpoints are skipped with a warning. Raises CheckpointError naming the faults if all are damaged.
    """
    faults = []
    for step, folder in sorted(step_folders(root).items(), reverse=True):
        try:
            found = verify_checkpoint(folder)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warn(f"{fault}; the checkpoint of step {step} is taken instead")
        return found
    if faults:
        raise CheckpointError("no checkpoint is whole:\n" + "\n".join(faults))
    return None


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Check a checkpoint by size and sha256 of every file. Raises CheckpointError naming a file that differs."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.pop("sha256") != _seal(manifest):
            raise ValueError("its contents differ from its sha256")
        files, branches = dict(manifest["files"]), tuple(map(_plain, manifest["branches"]))
        checkpoint = Checkpoint(folder, index(manifest["step"]), dict(manifest["notes"]), branches)
        for name in files:
            for part in name.split("/"):
                _plain(part)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: missing, damaged or not a manifest: {error}") from error
    for name, expected in files.items():
        try:
            found = fingerprint(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error}") from error
        if found != expected:
            raise CheckpointError(f"{folder / name}: damaged: size or sha256 differ from {MANIFEST}")
    return checkpoint


def _plain(name: str) -> str:
    """The name of a file in the folder. Raises ValueError or TypeError for a name that leads out of it or is none."""
    if name in ("", "..") or Path(name).name != name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in it")
    name.encode()
    return name


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _by_name(written: tuple[str, StateFile]) -> str:
    return written[1].name


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _seal(manifest: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's contents, whatever their layout."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


SAVES = "checkpoints.jsonl"
"""The file of a run folder that holds size and time of each checkpoint. Only a half line at its end is cut off."""


ACCEPTED = 0.05
"""Most time that writing checkpoints may take, as a share of the time between them."""


NOTICED_SECONDS = 10.0
"""Seconds that this process may spend on checkpoints in all without a warning, whatever their share."""


class Saving:
    """The time that this process has spent on checkpoints, and the time between them."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self.save_seconds = self.between_saves_seconds = 0.0
        self._log = JsonLines(path)
        self._log.truncate(sys.maxsize)
        self._clock = clock
        self._began = self._ended = clock()
        self._warned = False

    def begins(self) -> None:
        """The branches stop for a checkpoint."""
        self._began = self._clock()

    def ended(self, checkpoint: Path, steps_done: int) -> None:
        """The checkpoint is complete: note its bytes on disk, its seconds, and the seconds since the previous one."""
        between, now = self._began - self._ended, self._clock()
        took, self._ended = now - self._began, now
        self.save_seconds += took
        self.between_saves_seconds += between
        size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        times = {"save_seconds": round(took, 3), "between_saves_seconds": round(between, 3)}
        self._log.write({"steps_done": steps_done, "bytes": size, **times})

    def warning(self) -> str | None:
        """A warning, given once, that checkpoints take too much of the time."""
        too_much = self.save_seconds > max(NOTICED_SECONDS, ACCEPTED * self.between_saves_seconds)
        if self._warned or not too_much:
            return None
        self._warned = True
        times = f"{self.save_seconds:.0f} s for {self.between_saves_seconds:.0f} s between them"
        return f"checkpoints take more than {ACCEPTED:.0%} of the time: {times}; raise checkpoint.every_steps"

    def as_record(self) -> dict[str, float]:
        """The seconds spent on all checkpoints, and those between them, since this process began."""
        return {"save_seconds": self.save_seconds, "between_saves_seconds": self.between_saves_seconds}

    def close(self) -> None:
        """No checkpoint will follow."""
        self._log.close()
