"""The engines `lmms-eval` and `lm-eval`: a harness asks a model, in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from subprocess import CalledProcessError as Failed
from typing import Any

from copd.errors import CopdError, ModelFolderError, RecipeError, first_line
from copd.suites.suite import Harness, Sampling

MODULES = {"lmms-eval": "lmms_eval", "lm-eval": "lm_eval"}
LAST_LINES = 12
CACHE = "cache"
"""The folder in that of a local task in which the harness keeps its copy of the rows."""
EXPERTS = re.compile(r"A\d+B")
"""What in a path makes lmms-eval load a mixture of experts."""
VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


class HarnessError(CopdError):
    """A harness that failed: the message has its last lines."""


@dataclass(frozen=True)
class Run:
    """One run of a harness: `task` by its own name, or in the folder `tasks` that `copd.suites.local_tasks` wrote.

    The output goes to `out`, what it prints to `log`.
    """

    python: Path
    engine: str
    harness: Harness
    model: Path
    task: str
    out: Path
    log: Path
    sampling: Sampling
    seed: int
    device: str
    limit: int | None = None
    tasks: Path | None = None

    @property
    def command(self) -> list[str]:
        """The command line."""
        arguments: dict[str, Any] = {"pretrained": str(self.model), **self.harness.model_args}
        words = [str(self.python), "-m", MODULES[self.engine], *(["run"] if self.engine == "lm-eval" else [])]
        if self.engine == "lm-eval":
            words += ["--apply_chat_template", "--device", self.device]
        elif self.device == "cpu":
            arguments |= {"device_map": "cpu", "device": "cpu"}
        words += ["--model", self.harness.model, "--model_args", _joined(arguments), "--batch_size", "1"]
        words += ["--tasks", self.task, "--seed", str(self.seed), "--log_samples", "--output_path", str(self.out)]
        if self.tasks is None:
            words += ["--gen_kwargs", _joined(generation(self.engine, self.sampling))]
        else:
            words += ["--include_path", str(self.tasks)]
        return [*words, *(["--limit", str(self.limit)] if self.limit else [])]

    def finish(self) -> None:
        """Run the harness to its end. Raises HarnessError if it failed; also one that says nothing of it by its exit.

        No judge is asked: without a key no task sends an answer anywhere.
        """
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "OPENAI_API_KEY")}
        environment |= {
            "USE_LLM_JUDGE": "False",
            "API_TYPE": "openai",
            "WANDB_MODE": "disabled",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.tasks is not None:
            environment["HF_DATASETS_CACHE"] = str(self.tasks / CACHE)
        with self.log.open("wb") as lines:
            done = subprocess.run(
                self.command, stdin=subprocess.DEVNULL, stdout=lines, stderr=subprocess.STDOUT, env=environment
            )
        if done.returncode or not any(self.out.rglob("*samples_*.jsonl")):
            with self.log.open(encoding="utf-8", errors="replace") as lines:
                last = "".join(deque(lines, LAST_LINES)).strip()
            ended = f"ended with status {done.returncode}" if done.returncode else "wrote no samples"
            raise HarnessError(f"{self.engine}: task {self.task} {ended}; all that it said is in {self.log}:\n{last}")


def generation(engine: str, sampling: Sampling) -> dict[str, Any]:
    """The sampling of a suite as the generation arguments of a harness."""
    most = "max_gen_toks" if engine == "lm-eval" else "max_new_tokens"
    if sampling.greedy:
        return {most: sampling.max_new_tokens, "do_sample": False, "temperature": 0}
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return {most: sampling.max_new_tokens, **drawn, **({"top_k": sampling.top_k} if sampling.top_k else {})}


def _joined(values: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def pins(engine: str) -> dict[str, str]:
    """The version of each package that the environment of a harness must hold, by name."""
    found = {}
    for line in requirements(engine).read_text(encoding="utf-8").splitlines():
        name, pinned, number = line.partition("==")
        if pinned:
            found[name] = number
    return found


def requirements(engine: str) -> Path:
    """The file that pip installs the environment of a harness from."""
    return Path(str(files("copd"))) / "assets" / "suites" / f"{engine}.txt"


def python_of(named: str | None, engines: Sequence[str]) -> Path:
    """The Python of the harnesses. Raises RecipeError if none is named, or if it is not there."""
    if not named:
        installs = "; ".join(f"DIR/bin/python -m pip install -r {requirements(engine)}" for engine in engines)
        raise RecipeError(
            f"--harness-python: missing; {' and '.join(engines)} runs in an environment of "
            f"its own: python3 -m venv DIR; {installs}; then give DIR/bin/python"
        )
    if not Path(named).is_file():
        raise RecipeError(f"--harness-python {named}: no such file; give the Python of an environment, DIR/bin/python")
    return Path(named).absolute()


def check_versions(python: Path, engine: str) -> dict[str, str]:
    """The versions of a harness and of what it needs. Raises RecipeError if one is missing or another than pinned."""
    wanted = pins(engine)
    try:
        told = subprocess.run([str(python), "-c", VERSIONS, *wanted], capture_output=True, text=True, check=True)
        found: dict[str, str | None] = json.loads(told.stdout)
    except (OSError, ValueError, Failed) as error:
        why = f"ended with status {error.returncode}" if isinstance(error, Failed) else first_line(error)
        raise RecipeError(f"--harness-python {python}: is not a Python that runs: {why}") from error
    wrong = [
        f"{name} {found[name] or 'is missing'}, accepted {wanted[name]}"
        for name in wanted
        if (found[name] or "").partition("+")[0] != wanted[name]
    ]
    if wrong:
        raise RecipeError(
            f"--harness-python {python}: {'; '.join(wrong)}; {python} -m pip install -r {requirements(engine)}"
        )
    return wanted


def check_model(engine: str, folder: Path) -> None:
    """Raise ModelFolderError for a path that makes lmms-eval load the wrong class, or that cuts its arguments."""
    if "," in str(folder) or "=" in str(folder):
        raise ModelFolderError(f"{folder}: a harness takes no path with a comma or an equals sign; move the model")
    if engine != "lmms-eval":
        return
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    experts, named = "moe" in config.get("model_type", ""), EXPERTS.search(str(folder))
    if experts != bool(named):
        said = f"holds {named[0]!r}, by which" if named else "holds nothing like 'A3B', without which"
        found = "mixture of experts" if named else "dense model"
        raise ModelFolderError(f"{folder}: the path {said} lmms-eval loads a {found}; give the model another path")
