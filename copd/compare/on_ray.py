"""Jobs of a comparison as tasks of Ray, each on whichever node has a core for it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray
from ray.exceptions import RayError

from copd.compare.running import POLL_SECONDS, command_of, one_thread
from copd.errors import ProcessError, first_line
from copd.system.processes import end_with_parent


def cores() -> int:
    """The cores of the cluster: as many jobs can run at once. Raises ProcessError if there is none."""
    found = int(ray.cluster_resources().get("CPU", 0))
    if not found:
        raise ProcessError("--ray: the cluster has no core; start a node, or wait for one")
    return found


class RayJob:
    """A job that a task of Ray runs. It writes to the log's folder, which all nodes must share."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        self._task = (
            ray.remote(_run)
            .options(num_cpus=1, max_retries=0)
            .remote(list(arguments), str(log.resolve()), str(Path.cwd()))
        )

    def poll(self) -> int | None:
        """The exit status; None while it runs. A task that was lost with its node has the status 1."""
        done, _ = ray.wait([self._task], timeout=0)
        if not done:
            return None
        try:
            status: int = ray.get(self._task)
        except RayError as error:
            with suppress(OSError), self._log.open("a", encoding="utf-8") as lines:
                lines.write(f"its task of Ray failed: {first_line(error)}\n")
            return 1
        return status

    def terminate(self) -> None:
        """Let the job stop with a checkpoint."""
        ray.cancel(self._task)

    def wait(self) -> None:
        ray.wait([self._task])


def _run(arguments: Sequence[str], log: str, folder: str) -> int:
    with open(log, "ab") as lines:
        process = subprocess.Popen(
            command_of(arguments),
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=one_thread(),
            preexec_fn=end_with_parent,
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)  # a task is cancelled between two instructions, not in a call that waits
            return process.returncode
        finally:
            process.terminate()
            process.wait()
