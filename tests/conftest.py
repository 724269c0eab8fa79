"""Real parts, small: tiny random-weight policies in both precisions, problems of the three kinds, uneven rollouts."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two tests at once: threads that wait by spinning stall each other

import numpy as np
import pytest
import torch
from filelock import FileLock
from in_float64 import in_float64
from markupsafe import Markup, escape
from torch import Tensor

from copd.tasks.digits import Digits
from copd.types import Problem, Rollouts, Split

KINDS = ("text", "image", "video")
UNEVEN = ((5, 3, 7), (1,), (4, 6))
"""Response lengths of the rows of three prompts: groups of three sizes, one response of a single token."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of minutes begin first: at the end one of them would keep one process busy alone."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@dataclass(frozen=True)
class Few:
    """A task of a few problems that come round and round."""

    name: str
    problems: tuple[Problem, ...]

    def problem(self, split: Split, index: int) -> Problem:
        return self.problems[index % len(self.problems)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def problems_of() -> dict[str, tuple[Problem, ...]]:
    """Three training problems of each kind; prompts differ in length, the third one's pictures are two tokens high."""
    tasks = {kind: Digits(kind, conflict=1.0) for kind in KINDS}
    problems = {kind: [task.problem(Split.TRAIN, i) for i in range(3)] for kind, task in tasks.items()}
    for first, second, third in problems.values():
        images = tuple(np.tile(image, (2, 1, 1)) for image in third.images)
        videos = tuple(np.tile(video, (1, 2, 2, 1)) for video in third.videos)
        problems[first.kind] = [first, second, replace(third, images=images, videos=videos)]
    return {kind: tuple(three) for kind, three in problems.items()}


@pytest.fixture(scope="session")
def processor() -> Any:
    from copd.model.tiny import tiny_processor

    return tiny_processor()


def _policy(processor: Any, change: Callable[[Any], Any] = lambda model: model, seed: int = 0) -> Any:
    from small_base import TWO_LAYERS, small_model

    from copd.model.policy import Policy

    return Policy(change(small_model(processor, seed, *TWO_LAYERS)), processor)


def _inclined_to_end(model: Any) -> Any:
    with torch.no_grad():
        model.get_input_embeddings().weight[model.generation_config.eos_token_id] *= 2
    return model


@pytest.fixture(scope="session")
def policy(processor: Any) -> Any:
    """Random weights in float32. Not to be changed: tests that train take `policy.clone()`."""
    return _policy(processor)


@pytest.fixture(scope="session")
def policy64(processor: Any) -> Any:
    """The same in float64, throughout."""
    return _policy(processor, in_float64)


@pytest.fixture(scope="session")
def ending(processor: Any) -> Any:
    """Random weights and an end token that is likely, so that rows finish at different places."""
    return _policy(processor, _inclined_to_end, seed=3)


@pytest.fixture(scope="session")
def ending64(processor: Any) -> Any:
    """The same in float64, throughout."""
    return _policy(processor, lambda model: in_float64(_inclined_to_end(model)), seed=3)


@pytest.fixture(scope="session")
def solver(processor: Any, problems_of: dict[str, tuple[Problem, ...]]) -> Any:
    """A policy that has learned the solutions of the first two problems of each kind by heart."""
    from copd.model.warmup import WarmupPlan, warm_up

    pupil = _policy(processor)
    known = Few("known", tuple(problem for kind in KINDS for problem in problems_of[kind][:2]))
    plan = WarmupPlan(steps=20, problems_per_step=len(known.problems), learning_rate=1e-2)
    warm_up(pupil, [known], plan, lambda step, steps: None)
    return pupil


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """A folder of that name, which is not to be changed: the first process that asks for it fills it for all others."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, fill: Callable[[Path], Any]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / name).is_dir():
                shutil.rmtree(root / f"unfinished {name}", ignore_errors=True)
                fill(root / f"unfinished {name}")
                (root / f"unfinished {name}").rename(root / name)
        return root / name

    return made


@pytest.fixture(scope="session")
def small_base(made_once: Callable[[str, Callable[[Path], Any]], Path]) -> Path:
    """The folder of a base for whole runs, a third as dear as the one that ships."""
    from small_base import build_small_base

    return made_once("small_base", build_small_base)


@pytest.fixture(scope="session")
def stopped() -> Callable[[Path], None]:
    """Make a finished run folder one of a run that stopped before its last line."""

    def stop(folder: Path) -> None:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"event": "result"' not in line))
        (folder / "report.html").unlink(missing_ok=True)

    return stop


def _numbers(figure: Any, title: str) -> Markup:
    """Labels and numbers of a figure in the place of its drawing."""
    shown = [(axes.get_xlabel(), *(line.get_xydata().tolist() for line in axes.lines)) for axes in figure.axes]
    return Markup(f'<svg role="img" aria-label="{escape(title)}">{escape(shown)}</svg>')


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Figures of reports as their numbers: to draw them takes longer than a tiny run; tests/report/ draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("copd.report.figures.to_svg", _numbers)
        yield


@pytest.fixture
def undrawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test of a module that draws."""
    monkeypatch.setattr("copd.report.figures.to_svg", _numbers)


@pytest.fixture(scope="session")
def few() -> type[Few]:
    return Few


@pytest.fixture(scope="session")
def written() -> Callable[..., Rollouts]:
    """Rollouts of random allowed tokens, given the response lengths of each prompt's rows.

    Every second response ends with the end token; what stands in the padding is random too.
    """

    def write(
        policy: Any,
        problems: Sequence[Problem],
        lengths_of_P: Sequence[Sequence[int]] = UNEVEN,
        *,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Rollouts:
        length_N = torch.tensor([length for lengths in lengths_of_P for length in lengths])
        prompt_of_N = torch.tensor([p for p, lengths in enumerate(lengths_of_P) for _ in lengths])
        allowed = (~policy.banned_V).nonzero()[:, 0]
        ordinary = allowed[~torch.isin(allowed, policy.end_ids)]
        shape = (len(length_N), int(length_N.max()))
        tokens_NT = ordinary[torch.randint(len(ordinary), shape, generator=torch.Generator().manual_seed(seed))]
        finished_N = torch.arange(len(length_N)) % 2 == 1
        tokens_NT[finished_N, length_N[finished_N] - 1] = policy.end_ids[0]
        return Rollouts(
            problems=tuple(problems[: len(lengths_of_P)]),
            tokens_NT=tokens_NT,
            mask_NT=torch.arange(shape[1]) < length_N[:, None],
            finished_N=finished_N,
            logp_NT=torch.zeros(shape),
            prompt_of_N=prompt_of_N,
            temperature=temperature,
        )

    return write


@pytest.fixture(scope="session")
def gradients() -> Callable[[Any, Tensor], dict[str, Tensor]]:
    """d value / d parameters of a policy by name, by autograd alone; zero where a parameter plays no part."""

    def differentiate(policy: Any, value: Tensor) -> dict[str, Tensor]:
        names, parameters = zip(*policy.model.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(value, parameters, materialize_grads=True), strict=True))

    return differentiate


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Two dictionaries of tensors have the same names and, within `atol`, the same values."""

    def compare(left: dict[str, Tensor], right: dict[str, Tensor], *, atol: float = 0.0) -> None:
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(
                left[name], right[name], atol=atol, rtol=0, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
            )

    return compare


@pytest.fixture(scope="session")
def processed(processor: Any) -> Callable[[Problem], dict[str, Tensor]]:
    """One problem through chat template and processor as the manual of transformers has it."""

    def process(problem: Problem) -> dict[str, Tensor]:
        media = [{"type": "image"}] * len(problem.images) + [{"type": "video"}] * len(problem.videos)
        chat = [{"role": "user", "content": [*media, {"type": "text", "text": problem.prompt}]}]
        inputs = {"text": [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)]}
        if problem.images:
            inputs["images"] = list(problem.images)
        if problem.videos:
            inputs["videos"] = list(problem.videos)
            inputs["video_metadata"] = [
                {"fps": problem.fps, "total_num_frames": len(video), "frames_indices": list(range(len(video)))}
                for video in problem.videos
            ]
        return dict(processor(**inputs, return_tensors="pt"))

    return process


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., CompletedProcess[str]]:
    """`copd ARGUMENTS` in this process, where torch is loaded already, from the folder `tmp_path`."""

    def run(*arguments: str) -> CompletedProcess[str]:
        from copd.cli import main

        monkeypatch.setattr(sys, "argv", ["copd", *arguments])
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as exit_:
            main()
        return CompletedProcess(sys.argv, exit_.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def in_small_files() -> Callable[[str, Path], str]:
    """Run a script, told a path, in a process whose files may hold 100 bytes, as if the disk were full; what it says.

    The script has `path` and `small()`, from which on the limit holds.
    """
    begin = (
        "import resource, signal, sys\nfrom pathlib import Path\npath = Path(sys.argv[1])\n"
        "def small():\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    )

    def run(script: str, path: Path) -> str:
        command = [sys.executable, "-c", begin + script, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture
def foreground() -> Iterator[None]:
    """SIGINT is heeded here and in processes started here; a shell's background jobs were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_more_files() -> Callable[[], AbstractContextManager[None]]:
    """A block in which the system opens no file to this process, as if all that it may have were open."""

    @contextmanager
    def limit() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return limit
