"""Trackers against the real libraries, offline: what arrives, under which names, and that no secret does."""

import sys
import time
from types import SimpleNamespace

import pytest

import copd
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.runs.runlog import read_lines
from copd.runs.trackers import TRACKERS, Log, numbers_of, open_trackers

UPDATE = {
    "event": "update",
    "step": 3,
    "seconds": 1.5,
    "branch": "text",
    "phase": "rlvr",
    "native/reward": 0.25,
    "skipped": 0.0,
}
BEHAVIOUR = {
    "event": "behaviour",
    "step": 3,
    "seconds": 2.0,
    "phase": "opd",
    "overlap": {10: {"a": {"a": 1.0, "b": 0.5}}},
    "chance": {10: 0.1},
    "symmetric_kl": {"a": {"a": 0.0, "b": 0.25}},
    "kl_is_exact": True,
    "accuracy": {"a": {"a": 0.75, "b": 0.5}},
}
TEACHING = {"event": "teaching", "step": 3, "seconds": 2.0, "student": "a", "weight": 1.0, "student_accuracy": 0.5}
ACCURACY = {
    "event": "accuracy",
    "step": 3,
    "table": [{"model": "a", "capability": "text", "problems": 4, "greedy": {"value": 0.75, "low": 0.3, "high": 0.9}}],
}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (UPDATE, {"update/text/native/reward": 0.25, "update/text/skipped": 0.0}),
        (
            BEHAVIOUR,
            {
                "behaviour/overlap/10/a/b": 0.5,
                "behaviour/symmetric_kl/a/b": 0.25,
                "behaviour/accuracy/a/a": 0.75,
                "behaviour/accuracy/a/b": 0.5,
            },
        ),
        ({**TEACHING, "teacher": "b"}, {"teaching/a/from_b/student_accuracy": 0.5}),
        ({**TEACHING, "teacher": "c"}, {"teaching/a/from_c/student_accuracy": 0.5}),
        (ACCURACY, {"accuracy/table/a/text": 0.75}),
    ],
)
def test_the_numbers_of_a_record_that_may_change_are_named_by_their_path_and_edge(record, expected):
    assert numbers_of(record) == expected


def test_tensorboard_gets_every_number_at_its_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = open_trackers(["tensorboard"], tmp_path, 0, {"seed": 0})
    for step in range(3):
        log.log(step, {"update/text/native/reward": step / 4})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("update/text/native/reward")]
    assert found == [(0, 0.0), (1, 0.25), (2, 0.5)]


def test_a_resumed_run_replaces_the_steps_it_writes_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((0, 1.0), (1, 2.0)):
        (log,) = open_trackers(["tensorboard"], tmp_path, first, {})
        for step in range(first, 3):
            log.log(step, {"reward": value})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(0, 1.0), (1, 2.0), (2, 2.0)]


def test_wandb_keeps_the_numbers_in_a_run_that_was_never_online_and_no_key_and_prints_nothing(
    tmp_path, monkeypatch, capfd
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    folder = tmp_path / "demo"
    folder.mkdir()
    (log,) = open_trackers(["wandb"], folder, 0, {"seed": 7})
    log.log(5, {"update/text/native/reward": 0.125})
    log.close()
    assert capfd.readouterr() == ("", "")
    (written,) = folder.rglob("*.wandb")
    for _ in range(300):  # a process of wandb's own writes it, at its leisure
        contents = written.read_bytes()
        if b"0.125" in contents:
            break
        time.sleep(0.1)
    assert b"update/text/native/reward" in contents
    assert b"0.125" in contents
    for path in folder.rglob("*"):
        assert not path.is_file() or b"k" * 40 not in path.read_bytes(), path


def test_a_run_sends_its_updates_and_measures_to_the_trackers_of_its_recipe(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = [
        "trackers=[tensorboard]",
        "backend=local",
        "model.threads_per_branch=1",
        "method=mixed",
        "schedule={cycles: 1, rl_steps: 2, opd_steps: 0}",
        "budget.rollouts=18",
        "sampling={prompts_per_step: 3, rollouts_per_prompt: 2, max_new_tokens: 20}",
        "evaluation={problems: 2, validation_problems: 2, behaviour_problems: 2}",
    ]
    folder = copd.train(load_recipe("demo", small), tmp_path / "run").folder
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    updates = [line for line in read_lines(folder / "metrics.jsonl") if line["event"] == "update"]
    assert [event.step for event in events.Scalars("update/mixed/native/reward")] == [u["step"] for u in updates]
    assert {"accuracy/table/mixed/average", "behaviour/accuracy/mixed/text", "result/table/mixed/text"} <= set(names)


def test_runs_in_folders_of_one_name_are_two_runs_of_wandb_over_steps_and_a_resumed_one_stays_itself(
    tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb")
    begun = []
    axes = []
    run = SimpleNamespace(log=None, finish=None, define_metric=lambda name, **given: axes.append((name, given)))
    monkeypatch.setattr(wandb, "init", lambda **given: begun.append(given) or run)
    for place in ("a", "b", "b"):
        (tmp_path / place / "copd-seed0").mkdir(parents=True, exist_ok=True)
        open_trackers(["wandb"], tmp_path / place / "copd-seed0", 0, {})
    first, second, resumed = (given["id"] for given in begun)
    assert first != second == resumed
    assert {given["name"] for given in begun} == {"copd-seed0"}
    assert axes[:2] == [("step", {}), ("*", {"step_metric": "step"})]


def test_what_wandb_refuses_is_a_users_error_and_logs_opened_before_are_closed(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    closed = []

    def refuses(**given):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuses)
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda *given: Log(lambda *_: None, lambda: closed.append(True)))
    with pytest.raises(RecipeError, match="trackers: wandb: no API key configured"):
        open_trackers(["tensorboard", "wandb"], tmp_path, 0, {})
    assert closed == [True]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_told_before_a_folder_is_made(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=rf"trackers: {name} is not installed: pip install {name}"):
        copd.train(load_recipe("demo", [f"trackers=[{name}]"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_cannot_be_imported_is_named(tmp_path, monkeypatch, name):
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=rf"^trackers: {name} cannot be imported: "):
        open_trackers([name], tmp_path, 0, {})
