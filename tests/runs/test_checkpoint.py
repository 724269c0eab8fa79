"""Checkpoints under real faults: SIGKILL at every write point, a full disk, flipped bits and cut files."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import save_checkpoint, tensors_of

from copd.branches.state import write_state
from copd.errors import CheckpointError
from copd.runs.checkpoint import MANIFEST, complete, latest_checkpoint, new_checkpoint, part_of, verify_checkpoint
from copd.types import StateFile

IMPORTS = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from checkpoints import save_checkpoint, tensors_of
from copd.runs.checkpoint import latest_checkpoint
"""

DIES_AT_EVERY_POINT = """
def save(root, step):
    states = {name: {"w": torch.full((1000,), float(step))} for name in ("a", "b")}
    save_checkpoint(root, step, states, {"step": step}, 1)

def die_at(point):
    events = 0
    def count(event, arguments):
        nonlocal events
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"}:
            events += 1
            if events == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

killed, point = True, 0
while killed:
    point += 1
    root = Path(sys.argv[1]) / "every point" / str(point)
    save(root, 1)
    child = os.fork()
    if child == 0:
        die_at(point)
        save(root, 2)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = latest_checkpoint(root)
    values = {float(v) for name in found.branches for v in tensors_of(found, name)["w"].unique()}
    print(json.dumps({"killed": killed, "step": found.step, "noted": found.notes["step"], "values": list(values)}))
    save(root, 3)
    assert latest_checkpoint(root).step == 3
"""

DIES_AT_RANDOM = """
def save(root, step):
    save_checkpoint(root, step, {"a": {"w": torch.full((500_000,), float(step))}}, {}, 2)

def writing():
    return list(root.glob(".writing*"))

random.seed(0)
root = Path(sys.argv[1]) / "random"
save(root, 1)
for attempt in range(12):
    before = latest_checkpoint(root).step
    for left in writing():
        shutil.rmtree(left)
    child = os.fork()
    if child == 0:
        for step in range(before + 1, before + 1000):
            save(root, step)
        os._exit(0)
    while not writing():
        time.sleep(0.0002)
    time.sleep(random.uniform(0.0, 0.04) if attempt % 2 else 0.0)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = latest_checkpoint(root)
    values = tensors_of(found, "a")["w"].unique().tolist()
    line = {"killed": killed, "before": before, "step": found.step, "values": values, "partial": bool(writing())}
    print(json.dumps(line))
"""


def state(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"w": torch.full((8, 3), float(step)), "n": torch.tensor(step)} for name in ("text", "image")}


def save(root: Path, *steps: int, keep_last: int = 9) -> Path:
    for step in steps:
        folder = save_checkpoint(root, step, state(step), {"counts": {"rollouts": 10 * step}}, keep_last)
    return folder


def run_script(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


DAMAGES = [
    pytest.param("text.safetensors", lambda path: flip(path, 3), id="a flipped bit in the header's length"),
    pytest.param("text.safetensors", lambda path: flip(path, 40), id="a flipped bit in the header"),
    pytest.param("image.safetensors", lambda path: flip(path, -1), id="a flipped bit in the last number"),
    pytest.param("image.safetensors", lambda path: cut(path, path.stat().st_size - 1), id="a byte is missing"),
    pytest.param("text.safetensors", lambda path: cut(path, 0), id="an empty file"),
    pytest.param("text.safetensors", lambda path: path.write_bytes(path.read_bytes() + b"\0"), id="a byte too many"),
    pytest.param("text.safetensors", Path.unlink, id="a missing file"),
    pytest.param(MANIFEST, lambda path: flip(path, 0), id="a flipped bit in the manifest"),
    pytest.param(MANIFEST, lambda path: cut(path, path.stat().st_size // 2), id="half a manifest"),
    pytest.param(MANIFEST, lambda path: cut(path, 0), id="an empty manifest"),
    pytest.param(MANIFEST, Path.unlink, id="a missing manifest"),
    pytest.param(MANIFEST, lambda path: path.write_text("[]"), id="a manifest that is a list"),
    pytest.param(MANIFEST, lambda path: path.write_text("[" * 100_000), id="a manifest of endless lists"),
    pytest.param(MANIFEST, lambda path: path.write_bytes(b"\xff\xfe"), id="a manifest that is not text"),
]


def test_a_checkpoint_gives_back_step_notes_and_tensors_of_every_type(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "count": torch.tensor(2**60),
        "empty": torch.zeros(0, 3),
        "strided": torch.randn(4, 6).T,
    }
    notes = {"counts": {"a": {"rollouts": 128, "collect_seconds": 0.1}}, "text": "größer"}
    save_checkpoint(tmp_path, 25, {"a": tensors, "b": {"w": torch.ones(1)}}, notes, 2)
    found = latest_checkpoint(tmp_path)
    assert (found.step, found.notes, found.branches) == (25, notes, ("a", "b"))
    for name, tensor in tensors_of(found, "a").items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)
    assert set(tensors_of(found, "a")) == set(tensors)


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path):
    save(tmp_path, 5, 25, 100)
    assert latest_checkpoint(tmp_path).step == 100


def test_without_any_checkpoint_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("keep_last", "kept"),
    [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (4, [1, 2, 3, 4]), (5, [1, 2, 3, 4]), (9, [1, 2, 3, 4])],
)
def test_only_the_newest_are_kept(tmp_path, keep_last, kept):
    save(tmp_path, 1, 2, 3, 4, keep_last=keep_last)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in kept]


def test_those_asked_for_are_kept_beside_the_newest(tmp_path):
    for step in range(1, 8):
        save_checkpoint(tmp_path, step, state(step), {}, 2, beside=(2, 5, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in (2, 5, 6, 7)]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_damage_is_found_and_named_and_the_older_checkpoint_is_taken(tmp_path, file, damage):
    newest = save(tmp_path, 1, 2)
    damage(newest / file)
    with pytest.raises(CheckpointError, match=str(newest / file)):
        verify_checkpoint(newest)
    told = []
    older = latest_checkpoint(tmp_path, told.append)
    assert older.step == 1
    assert tensors_of(older, "text")["w"].unique().tolist() == [1.0]
    (warning,) = told
    assert warning.startswith(str(newest / file))
    assert warning.endswith("; the checkpoint of step 1 is taken instead")


def test_a_whole_checkpoint_is_taken_without_a_warning_about_older_ones(tmp_path):
    flip(save(tmp_path, 1) / "text.safetensors", -1)
    save(tmp_path, 2)
    told = []
    assert latest_checkpoint(tmp_path, told.append).step == 2
    assert told == []


def test_folders_of_other_names_are_neither_taken_nor_removed(tmp_path):
    mine = {tmp_path / name for name in ("step-abc", "step-00000003 (copy)", "step-7")}
    for folder in mine:
        folder.mkdir()
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 1, 2, keep_last=1)
    assert set(tmp_path.iterdir()) == {*mine, tmp_path / "step-00000002"}


def test_a_manifest_of_the_wrong_shape_is_named_and_the_older_checkpoint_is_taken(tmp_path):
    newest = save(tmp_path, 1, 2)
    (newest / MANIFEST).write_text(json.dumps({"step": 2, "branches": ["text"], "notes": {}, "files": []}))
    assert latest_checkpoint(tmp_path).step == 1
    with pytest.raises(CheckpointError, match=MANIFEST):
        verify_checkpoint(newest)


def test_any_flipped_bit_of_any_file_is_found(tmp_path):
    folder = save(tmp_path, 1)
    unseen = []
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for at in range(len(original)):
            flip(path, at, at % 7)
            try:
                verify_checkpoint(folder)
            except CheckpointError:
                pass
            else:
                unseen.append((path.name, at, original[max(0, at - 12) : at + 12]))
            path.write_bytes(original)
    assert verify_checkpoint(folder).step == 1
    assert unseen == []


def test_a_manifest_cut_anywhere_is_found(tmp_path):
    folder = save(tmp_path, 1)
    whole = (folder / MANIFEST).read_bytes()
    for size in range(len(whole)):
        (folder / MANIFEST).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=MANIFEST):
            verify_checkpoint(folder)


def test_where_every_checkpoint_is_damaged_all_faults_are_named(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step) / "text.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint is whole.*step-00000002.*step-00000001"):
        latest_checkpoint(tmp_path)


def test_tensors_that_cannot_be_read_after_the_check_are_named(tmp_path):
    found = verify_checkpoint(save(tmp_path, 1))
    cut(found.folder / "text.safetensors", 10)
    with pytest.raises(CheckpointError, match=r"text\.safetensors: cannot be read"):
        tensors_of(found, "text")


def test_a_checkpoint_without_its_manifest_is_passed_over(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002").mkdir()
    assert latest_checkpoint(tmp_path).step == 1


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What was found after each SIGKILL at a write point, and after each in the middle of saving; of one process."""
    script = f"{IMPORTS}{DIES_AT_EVERY_POINT}print('between')\n{DIES_AT_RANDOM}"
    halves = run_script(script, tmp_path_factory.mktemp("killed")).split("between\n")
    return [[json.loads(line) for line in half.splitlines()] for half in halves]


def test_sigkill_at_every_write_point_leaves_the_older_or_the_newer_whole(killed):
    points, _ = killed
    assert len(points) > 8
    assert [point["killed"] for point in points] == [True] * (len(points) - 1) + [False]
    for point in points:
        assert point["values"] == [point["step"]]
        assert point["noted"] == point["step"]
    steps = [point["step"] for point in points]
    assert set(steps) == {1, 2}
    assert steps == sorted(steps)


def test_sigkill_in_the_middle_of_saving_leaves_a_whole_checkpoint(killed):
    _, attempts = killed
    assert len(attempts) == 12
    assert all(attempt["killed"] for attempt in attempts)
    assert any(attempt["partial"] for attempt in attempts)
    for attempt in attempts:
        assert attempt["step"] >= attempt["before"]
        assert attempt["values"] == [attempt["step"]]


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint_intact(tmp_path):
    roots = [tmp_path / "full within the tensors", tmp_path / "full within the manifest"]
    before = [{path.name: path.read_bytes() for path in save(root, 1).iterdir()} for root in roots]
    messages, limits = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        for root, numbers, notes in zip(roots, (100_000, 10), (0, 100_000), strict=True):
            with pytest.raises(CheckpointError) as refused:
                save_checkpoint(root, 2, {"a": {"w": torch.zeros(numbers)}}, {"text": "x" * notes}, 1)
            messages.append(str(refused.value))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for root, files, message in zip(roots, before, messages, strict=True):
        assert f"checkpoint of step 2 cannot be written to {root}" in message
        assert "File too large" in message
        assert [path.name for path in root.iterdir()] == ["step-00000001"]
        assert {path.name: path.read_bytes() for path in latest_checkpoint(root).folder.iterdir()} == files


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(CheckpointError, match="checkpoint of step 1 cannot be written to"):
        save(tmp_path / "checkpoints", 1)


def test_every_file_of_a_checkpoint_is_on_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    order, fsync, rename = [], os.fsync, Path.rename

    def noted(descriptor):
        order.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def named(folder, target):
        order.append(target)
        rename(folder, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", named)
    folder = save(tmp_path, 1)
    written = {path.stat().st_ino for path in (*folder.iterdir(), folder)}
    assert written == set(order[: order.index(folder)])
    assert order[-1] == tmp_path.stat().st_ino


def test_a_part_that_is_not_here_as_its_branch_told_it_is_refused_and_the_older_checkpoint_stays(tmp_path):
    """As where a node of a cluster writes to a folder of its own."""
    save(tmp_path, 1)

    def half_here(content):
        with new_checkpoint(tmp_path, 2) as folder:
            if content:
                part_of(folder, "text").write_bytes(content)
            complete(folder, 2, {"text": [StateFile("text.safetensors", 9, "?")]}, {}, 2)

    for content, here in ((None, "not here"), (b"short", "5 bytes long here")):
        said = rf"step 2 .*text\.safetensors: branch text wrote 9 bytes, but the file is {here}; .* all branches share"
        with pytest.raises(CheckpointError, match=said):
            half_here(content)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_branch_that_was_given_up_cannot_write_into_a_later_attempt_of_the_same_step(tmp_path):
    with new_checkpoint(tmp_path, 1) as given_up:
        pass
    with new_checkpoint(tmp_path, 1) as folder:
        assert folder != given_up
        assert not given_up.exists()
        with pytest.raises(CheckpointError, match=r"text\.safetensors: cannot be written"):
            write_state({"w": torch.ones(1)}, part_of(given_up, "text"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted where Linux lists them")
def test_no_open_files_are_left_behind(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    save(tmp_path, 1, 2, 3)
    latest_checkpoint(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "text.safetensors", -1)
    save(tmp_path, 2)
    assert latest_checkpoint(tmp_path).step == 2
