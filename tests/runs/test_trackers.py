"""Trackers against the real libraries, offline: what arrives, under which names, and that no secret does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import copd
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.recipe.sections import TrackerSection
from copd.runs import trackers
from copd.runs.runlog import read_lines
from copd.runs.tracked import MOST_PICTURES, Shown, numbers_of, shown
from copd.runs.trackers import TRACKERS, Log, opened_trackers
from copd.system.own_code import load_named

NO_MLFLOW = "mlflow is not installed: it needs pyarrow below 26, and the locked tools have 26; pip install mlflow"
NO_TRACKIO = "trackio is not installed: it needs pillow below 13, and copd is locked to 13; pip install trackio"
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

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
SAMPLES = [Shown("text/image", "prompt: 1 + 1\n\nresponse: so two", [PICTURE]), Shown("text/text", "prompt: 2", [])]


def section(kind, **settings):
    return TrackerSection(kind=kind, **settings)


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

    with opened_trackers([section("tensorboard")], tmp_path, 0, {"seed": 0}) as (log,):
        for step in range(3):
            log.log(step, {"update/text/native/reward": step / 4})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("update/text/native/reward")]
    assert found == [(0, 0.0), (1, 0.25), (2, 0.5)]


def test_a_resumed_run_replaces_the_steps_it_writes_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((0, 1.0), (1, 2.0)):
        with opened_trackers([section("tensorboard")], tmp_path, first, {}) as (log,):
            for step in range(first, 3):
                log.log(step, {"reward": value})
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
    with opened_trackers([section("wandb")], folder, 0, {"seed": 7}) as (log,):
        log.log(5, {"update/text/native/reward": 0.125})
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


def test_a_run_sends_its_updates_and_measures_to_the_trackers_of_its_recipe(small_base, tmp_path, undrawn_here):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = [
        f"model.path={small_base}",
        "trackers=[tensorboard]",
        "backend=local",
        "model.threads_per_branch=1",
        "method=mixed",
        "schedule={cycles: 1, rl_steps: 2, opd_steps: 0}",
        "budget.rollouts=18",
        "sampling={prompts_per_step: 3, rollouts_per_prompt: 2, max_new_tokens: 12}",
        "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1}",
    ]
    folder = copd.train(load_recipe("demo-paper", small), tmp_path / "run").folder
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    updates = [line for line in read_lines(folder / "metrics.jsonl") if line["event"] == "update"]
    assert [event.step for event in events.Scalars("update/mixed/native/reward")] == [u["step"] for u in updates]
    assert {"accuracy/table/mixed/average", "behaviour/accuracy/mixed/text", "result/table/mixed/text"} <= set(names)
    assert "update/mixed/native/reward_std" in names
    assert {f"samples/mixed/{kind}/text_summary" for kind in ("text", "image", "video")} <= set(
        events.Tags()["tensors"]
    )
    assert {"samples/mixed/image/0", "samples/mixed/video/0"} <= set(events.Tags()["images"])


def test_runs_in_folders_of_one_name_are_two_runs_of_wandb_over_steps_and_a_resumed_one_stays_itself(
    tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb")
    begun = []
    axes = []
    run = SimpleNamespace(log=None, finish=lambda: None, define_metric=lambda name, **given: axes.append((name, given)))
    monkeypatch.setattr(wandb, "init", lambda **given: begun.append(given) or run)
    for place in ("a", "b", "b"):
        (tmp_path / place / "copd-seed0").mkdir(parents=True, exist_ok=True)
        with opened_trackers([section("wandb")], tmp_path / place / "copd-seed0", 0, {}):
            pass
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
    monkeypatch.setitem(
        TRACKERS, "tensorboard", lambda *given: Log(lambda *_: None, lambda *_: None, lambda: closed.append(True))
    )
    with (
        pytest.raises(RecipeError, match="trackers: wandb: no API key configured"),
        opened_trackers([section("tensorboard"), section("wandb")], tmp_path, 0, {}),
    ):
        pass
    assert closed == [True]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_tracker_is_told_before_a_folder_is_made(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=rf"trackers: {name} is not installed: pip install 'copd\[{name}\]'"):
        copd.train(load_recipe("demo", [f"trackers=[{name}]"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_tracker_that_cannot_be_imported_is_named(tmp_path, monkeypatch, name):
    for module in ("torch.utils.tensorboard", "wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(RecipeError, match=rf"^trackers: {name} cannot be imported: "),
        opened_trackers([section(name)], tmp_path, 0, {}),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def t(folder, first, recipe): raise OSError('no net')", "t.py:t fails: OSError: no net"),
        (
            "def t(folder, first, recipe): return {}",
            r"t.py:t returned dict without log and close; accepted: an object with log\(step, numbers\) and close\(\)",
        ),
        (
            "class t:\n def __init__(self, *given): pass\n def log(self, *given): 1 / 0\n def close(self): pass",
            "t.py:t fails: ZeroDivisionError: division by zero",
        ),
    ],
    ids=["opening", "without methods", "logging"],
)
def test_a_tracker_of_the_user_that_fails_is_named(tmp_path, monkeypatch, code, said):
    monkeypatch.chdir(tmp_path)
    Path("t.py").write_text(code)
    own = [load_named("t.py:t", "trackers.0")]
    with (
        pytest.raises(RecipeError, match=f"^trackers: {said}$"),
        opened_trackers([section("t.py:t")], tmp_path, 0, {}, own) as (log,),
    ):
        log.log(0, {})


def test_a_sample_is_shown_with_its_texts_and_a_few_of_its_pictures_and_frames(tmp_path):
    (tmp_path / "media").mkdir()
    for place in range(6):
        Image.fromarray(PICTURE + place).save(tmp_path / "media" / f"{place}.png")
    frames = [f"media/{place}.png" for place in range(1, 6)]
    record = {"branch": "text", "capability": "video", "prompt": "p", "response": "r", "answer": "a", "reward": 0.5}
    media = {"images": ["media/0.png"], "videos": [{"frames": frames, "frames_in_all": 9}]}
    found = shown(tmp_path, {**record, "problem": "/home/somebody/rows.jsonl:3", **media})
    assert (found.name, found.text) == ("text/video", "prompt: p\n\nresponse: r\n\nanswer: a\n\nreward: 0.5")
    assert [picture[0, 0, 0] for picture in found.pictures] == list(range(MOST_PICTURES))


def test_tensorboard_gets_samples_with_their_pictures_and_what_the_run_is_called(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    named = section("tensorboard", project="sums", name="first", tags=["tiny", "cpu"])
    with opened_trackers([named], tmp_path, 0, {}) as (log,):
        log.show(-1, SAMPLES)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (about,) = events.Tensors("run/text_summary")
    assert about.tensor_proto.string_val[0].decode() == "sums/first  \ntiny, cpu"
    (text,) = events.Tensors("samples/text/image/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (-1, SAMPLES[0].text)
    (picture,) = events.Images("samples/text/image/0")
    assert (picture.width, picture.height) == (6, 4)


def test_wandb_gets_samples_the_project_and_tags_and_knows_no_path_of_the_machine(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "somebody" / "demo"
    folder.mkdir(parents=True)
    with opened_trackers([section("wandb", project="sums", name="first", tags=["tiny"])], folder, 0, {"seed": 7}) as (
        log,
    ):
        log.show(2, SAMPLES)
    assert capfd.readouterr() == ("", "")
    (written,) = folder.rglob("*.wandb")
    for _ in range(300):
        contents = written.read_bytes()
        if b"samples/text/image" in contents:
            break
        time.sleep(0.1)
    assert all(name in contents for name in (b"sums", b"first", b"tiny", b"samples/text/image"))
    (table,) = folder.rglob("*.table.json")
    assert SAMPLES[0].text in json.loads(table.read_text())["data"][0]
    assert list(folder.rglob("*.png"))
    assert b"somebody" not in contents
    assert not [p for p in folder.rglob("*") if p.suffix == ".json" and b"somebody" in p.read_bytes()]


def test_mlflow_gets_numbers_samples_tags_and_the_recipe_and_a_resumed_run_goes_on(tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow", reason=NO_MLFLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = tmp_path / "somebody" / "demo"
    folder.mkdir(parents=True)
    asked = section("mlflow", project="sums", name="first", tags=["tiny"])
    for first, value in ((0, 0.25), (1, 0.5)):
        with opened_trackers([asked], folder, first, {"seed": 7, "model": {"path": "base", "freeze": []}}) as (log,):
            log.log(first - 1, {"update/text/native/reward": value})
            log.show(first - 1, SAMPLES)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert "tiny" in run.data.tags
    assert run.data.params == {"seed": "7", "model.path": '"base"', "model.freeze": "[]"}
    history = client.get_metric_history(run.info.run_id, "update/text/native/reward")
    assert [(each.step, each.value) for each in history] == [(-1, 0.25), (0, 0.5)]
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/samples/step1.md")
    assert SAMPLES[0].text in text
    assert client.list_artifacts(run.info.run_id, "samples/step1/text/image")
    assert not any("somebody" in f"{key}{value}" for key, value in {**run.data.tags, **run.data.params}.items())


def test_what_mlflow_refuses_is_a_users_error(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason=NO_MLFLOW)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with (
        pytest.raises(RecipeError, match=r"^trackers: mlflow: [^\n]*nowhere[^\n]*$"),
        opened_trackers([section("mlflow")], tmp_path, 0, {}),
    ):
        pass


def test_trackio_gets_numbers_samples_and_tags_under_a_name_of_its_own(tmp_path):
    """In a process of its own, since trackio reads where it keeps things when it is imported."""
    pytest.importorskip("trackio", reason=NO_TRACKIO)
    script = """
import sys
from pathlib import Path
from test_trackers import SAMPLES, section
from copd.runs.trackers import opened_trackers

for place in ("a", "b", "b"):
    folder = Path(sys.argv[1]) / "somebody" / place
    folder.mkdir(parents=True, exist_ok=True)
    asked = section("trackio", project="sums", name="first", tags=["tiny"])
    with opened_trackers([asked], folder, 0, {"seed": 7}) as (log,):
        log.log(-1, {"update/text/native/reward": 0.25})
        log.show(-1, SAMPLES)
print(*[(Path(sys.argv[1]) / "somebody" / each / "trackio-name").read_text() for each in ("a", "b")], sep="|")
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().split("|")
    assert first == "first" != second
    (database,) = (tmp_path / "kept").glob("sums*.db")
    contents = database.read_bytes() + b"".join(p.read_bytes() for p in (tmp_path / "kept").glob("sums*.db-wal"))
    assert all(name in contents for name in (b"update/text/native/reward", b"tiny", b"samples/text/image/0"))
    assert b"somebody" not in contents
    assert list((tmp_path / "kept").rglob("*.png"))


def test_what_a_library_says_is_told_in_a_line_without_the_login_of_an_address():
    said = trackers._reason(ValueError("cannot reach http://me:secret@127.0.0.1:9/api\nwhile retrying"))
    assert said == "cannot reach http://***@127.0.0.1:9/api"


def test_a_tracker_that_refuses_ends_a_run_before_the_model_is_loaded_and_the_folder_stays_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.py").write_text("def t(folder, first, recipe): raise OSError('no net')")
    small = ["evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1}", "schedule.cycles=1"]
    monkeypatch.setattr("copd.assemble.assembled.Assembled.loaded", property(lambda self: pytest.fail("loaded")))
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"^trackers: t\.py:t fails: OSError: no net$"):
            copd.train(load_recipe("demo", [*small, "trackers=[tensorboard, 't.py:t']"]), tmp_path / "run", quiet=True)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"tensorboard"}
