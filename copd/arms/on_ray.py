"""Jobs of a comparison as actors of Ray, each on whichever node has a core for it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray
from ray.exceptions import RayError

from copd.arms.running import command_of, one_thread
from copd.errors import ProcessError, first_line
from copd.system.processes import end_with_parent


def cores() -> int:
    """The cores of the cluster: as many jobs can run at once. Raises ProcessError if there is none."""
    found = int(ray.cluster_resources().get("CPU", 0))
    if not found:
        raise ProcessError("--ray: the cluster has no core; start a node, or wait for one")
    return found


class RayJob:
    """A job that an actor of Ray runs. It writes to the log's folder, which all nodes must share."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        self._actor = ray.remote(_Runner).options(num_cpus=1, max_concurrency=2).remote()
        self._run = self._actor.run.remote(list(arguments), str(log.resolve()), str(Path.cwd()))

    def poll(self) -> int | None:
        """The exit status; None while it runs. A job that was lost with its node has the status 1."""
        done, _ = ray.wait([self._run], timeout=0)
        if not done:
            return None
        try:
            status: int = ray.get(self._run)
        except RayError as error:
            with suppress(OSError), self._log.open("a", encoding="utf-8") as lines:
                lines.write(f"its actor of Ray failed: {first_line(error)}\n")
            status = 1
        ray.kill(self._actor)
        return status

    def terminate(self) -> None:
        """Let the job stop with a checkpoint."""
        self._actor.terminate.remote()

    def wait(self) -> None:
        ray.wait([self._run])


class _Runner:
    """Runs a job in one thread, and ends it from another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self, arguments: Sequence[str], log: str, folder: str) -> int:
        if self._ended:
            return 1
        with open(log, "ab") as lines:
            self._process = subprocess.Popen(
                command_of(arguments),
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=one_thread(),
                preexec_fn=end_with_parent,
            )
        return self._process.wait()

    def terminate(self) -> None:
        self._ended = True
        if self._process:
            self._process.terminate()
