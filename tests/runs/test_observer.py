"""What a run writes down about real branches: no damaged checkpoint, and records that go with the last whole one."""

import asyncio
import json
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import tensors_of

from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.local import local_handle
from copd.branches.signals import SampledToken
from copd.errors import CheckpointError
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.recipe.evaluation import sized
from copd.recipe.sections import CheckpointSection, EvaluationSection
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.lifecycle import Stop
from copd.runs.observer import RunObserver
from copd.runs.runlog import read_lines
from copd.schedule import Phase, Schedule, Stretch
from copd.tasks.digits import Digits

METRICS = {"skipped": 0.0, "grad_norm": 0.5}


class Listener:
    """Hears what the observer shows to a person."""

    def __init__(self):
        self.warnings = []

    def updated(self, branch, step, position, metrics):
        pass

    def warn(self, message):
        self.warnings.append(message)

    def stage(self, name, total=0):
        return nullcontext(lambda: None)

    def evaluated(self, table):
        pass


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def branches(policy):
    def make(name, index):
        twin = policy.clone()
        settings = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))
        sampling = SamplingSettings(seed=0, max_new_tokens=4, temperature=1.0)
        learner = Learner(twin, learning_rate=1e-3)
        tasks = {each: Digits(each) for each in ("text", "image")}
        return Branch(name, index, twin, tasks, sampling, capability=name, learner=learner, settings=settings)

    return {name: make(name, index) for index, name in enumerate(("text", "image"))}


@pytest.fixture
def observe(tmp_path, branches, listener):
    """An observer of a run of nine steps of RLVR that saves after each."""
    return lambda: RunObserver(
        tmp_path,
        {name: local_handle(branch) for name, branch in branches.items()},
        list(branches),
        Schedule(cycles=1, rl_steps=9, opd_steps=0),
        [],
        trained=lambda phase: tuple(branches),
        evaluation=sized(EvaluationSection(), {}),
        checkpoint=CheckpointSection(every_steps=1),
        stop=Stop(print),
        display=listener,
    )


def go_on(observer, branches, step):
    """Both branches make a step, and meet."""
    for name in branches:
        assert observer.may_begin(step)
        observer.updated(name, step, METRICS)
    asyncio.run(observer.met(Stretch(Phase.RLVR, range(step, step + 1))))


def poison(branch, value, what):
    """A single number of a branch's weights, or of its optimizer's state."""
    parameter = list(branch.learner.named_parameters.values())[-1]
    tensor = parameter.detach() if what == "weight" else torch.zeros_like(parameter)
    if what != "weight":
        branch.learner.optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": tensor, "exp_avg_sq": tensor}
    tensor.view(-1)[-1] = value


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("what", ["weight", "moment"])
def test_a_branch_that_is_not_finite_is_never_saved_and_the_older_checkpoint_stays(
    observe, branches, listener, tmp_path, value, what
):
    observer = observe()
    go_on(observer, branches, 0)
    poison(branches["image"], value, what)
    go_on(observer, branches, 1)
    observer.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert all(tensor.isfinite().all() for name in branches for tensor in tensors_of(saved, name).values())
    (warning,) = listener.warnings
    assert warning.startswith("after step 2: ")
    assert warning.endswith("no checkpoint after this step")
    assert "image" in warning


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_files_are_closed_although_the_last_updates_find_the_disk_full(observe, tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    observer, closed = observe(), []
    for name in ("_metrics", "_samples", "saving"):
        monkeypatch.setattr(getattr(observer, name), "close", partial(closed.append, name))
    observer.updated("text", 0, METRICS)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written: .*No space left"):
        observer.close()
    assert closed == ["_metrics", "_samples", "saving"]


def test_a_step_that_was_skipped_is_told_with_its_branch(observe, listener):
    observer = observe()
    observer.updated("image", 3, {**METRICS, "skipped": 1.0})
    observer.close()
    assert listener.warnings == [
        "after step 4: branch image: a log-prob, loss or gradient was not finite; the step was skipped",
    ]


def test_records_are_on_disk_before_a_checkpoint_notes_how_long_they_are(observe, branches, tmp_path, monkeypatch):
    order, fsync = [], os.fsync

    def noted(descriptor):
        order.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    observer = observe()
    monkeypatch.setattr(os, "fsync", noted)
    go_on(observer, branches, 0)
    observer.close()
    records = [(tmp_path / name).stat().st_ino for name in ("metrics.jsonl", "samples.jsonl")]
    manifest = (latest_checkpoint(tmp_path / "checkpoints").folder / "manifest.json").stat().st_ino
    assert max(order.index(record) for record in records) < order.index(manifest)


def test_a_record_shorter_than_its_checkpoint_noted_is_told_and_goes_on_in_whole_lines(
    observe, branches, listener, tmp_path
):
    observer = observe()
    go_on(observer, branches, 0)
    observer.close()
    metrics = tmp_path / "metrics.jsonl"
    size = metrics.stat().st_size
    os.truncate(metrics, size - 10)
    observer = observe()
    asyncio.run(observer.resume(latest_checkpoint(tmp_path / "checkpoints")))
    (warning,) = listener.warnings
    assert warning.startswith(f"{metrics}: has {size - 10} bytes where the checkpoint of step 1 noted {size}")
    go_on(observer, branches, 1)
    observer.close()
    assert [(line["step"], line["branch"]) for line in read_lines(metrics)] == [(0, "text"), (1, "text"), (1, "image")]


def test_records_of_their_checkpoints_length_or_longer_go_on_without_a_warning(observe, branches, listener, tmp_path):
    observer = observe()
    go_on(observer, branches, 0)
    for name in branches:
        observer.updated(name, 1, METRICS)
    observer.close()
    observer = observe()
    asyncio.run(observer.resume(latest_checkpoint(tmp_path / "checkpoints")))
    observer.close()
    assert listener.warnings == []
    assert {line["step"] for line in read_lines(tmp_path / "metrics.jsonl")} == {0}


def test_updates_are_written_once_every_branch_that_the_step_trains_has_made_it(branches, listener, tmp_path):
    observer = RunObserver(
        tmp_path,
        {name: local_handle(branch) for name, branch in branches.items()},
        list(branches),
        Schedule(cycles=1, rl_steps=2, opd_steps=1),
        [],
        trained=lambda phase: ("image", "text") if phase is Phase.RLVR else ("image",),
        evaluation=sized(EvaluationSection(), {}),
        checkpoint=CheckpointSection(),
        stop=Stop(print),
        display=listener,
    )
    written = []
    for branch, step in (("image", 0), ("image", 1), ("text", 0), ("text", 1), ("image", 2)):
        observer.updated(branch, step, METRICS)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        written.append([(event["step"], event["branch"]) for event in map(json.loads, lines)])
    observer.close()
    first, second = [(0, "text"), (0, "image")], [(1, "text"), (1, "image")]
    assert written == [[], [], first, first + second, [*first, *second, (2, "image")]]


def test_going_on_removes_what_a_process_killed_while_it_removed_or_wrote_has_left(observe, branches, tmp_path):
    observer, root = observe(), tmp_path / "checkpoints"
    for step in range(3):
        go_on(observer, branches, step)
    observer.close()
    kept = sorted(root.iterdir())
    assert [path.name for path in kept] == ["step-00000002", "step-00000003"]
    for name in ("step-00000001", ".writing-00000004"):
        (root / name).mkdir()
        (root / name / "text.safetensors").write_bytes(b"half")
    observer = observe()
    asyncio.run(observer.resume(latest_checkpoint(root)))
    observer.close()
    assert sorted(root.iterdir()) == kept


def test_the_best_checkpoint_stays_beside_the_last_also_when_the_run_goes_on(branches, listener, tmp_path):
    """Models of random weights answer nothing, and of steps that are equally good the first is the best."""

    def observe():
        return RunObserver(
            tmp_path,
            {name: local_handle(branch) for name, branch in branches.items()},
            list(branches),
            Schedule(cycles=1, rl_steps=9, opd_steps=0),
            [],
            trained=lambda phase: tuple(branches),
            evaluation=EvaluationSection(every_steps=2, validation_problems=2),
            checkpoint=CheckpointSection(every_steps=3, keep_last=1, keep_best=True),
            stop=Stop(print),
            display=listener,
        )

    observer, root = observe(), tmp_path / "checkpoints"
    assert set(observer.meet_after) == {2, 4, 6, 8}
    kept = []
    for step in (0, 1, 2, 3):
        go_on(observer, branches, step)
        kept.append([int(path.name.removeprefix("step-")) for path in sorted(root.glob("step-*"))])
    observer.close()
    assert kept == [[], [2], [2, 3], [2, 3]]
    observer = observe()
    asyncio.run(observer.resume(latest_checkpoint(root)))
    for step in (3, 4, 5):
        go_on(observer, branches, step)
    observer.close()
    assert sorted(path.name for path in root.iterdir()) == ["step-00000002", "step-00000006"]
