"""Runs tests of a project in forks of a process that has imported the libraries and nothing of the project.

`python -P mutation_server.py MODULE ...`, started in the project's folder, imports the modules. It reads lines of
seconds and the id of a test, and answers each with a line of JSON: pytest's exit status, null for a test that was
killed after so many seconds, and the end of what it said.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from typing import TextIO


def run_test(test: str, output: TextIO) -> None:
    """The life of a fork, in a session of its own."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    import pytest

    # Of the plugins only the one that pyproject.toml has options for: that of hypothesis takes seconds to import.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.exit(pytest.main(["-x", "-p", "no:cacheprovider", "-p", "pytest_timeout", test]))


def outcome(test: str, seconds: float) -> tuple[int | None, str]:
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        fork = multiprocessing.get_context("fork").Process(target=run_test, args=(test, output))
        fork.start()
        fork.join(seconds)
        status = fork.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fork.pid, signal.SIGKILL)
        fork.join()
        output.seek(0)
        return status, output.read()[-4000:]


def main(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        seconds, test = line.strip().split(" ", 1)
        print(json.dumps(outcome(test, float(seconds))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
