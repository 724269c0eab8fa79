"""What checkpoints cost: noted for each, told once where it is too much."""

import pytest

from copd.runs.checkpoint import ACCEPTED, NOTICED_SECONDS, Saving
from copd.runs.runlog import read_lines


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def save(saving, clock, folder, between, took, steps_done=1):
    clock.now += between
    saving.begins()
    clock.now += took
    saving.ended(folder, steps_done)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"x" * 1000)
    (folder / "manifest.json").write_bytes(b"y" * 24)
    return folder


def test_each_checkpoint_is_noted_with_its_size_and_times(tmp_path, checkpoint):
    clock = Clock()
    saving = Saving(tmp_path / "checkpoints.jsonl", clock)
    save(saving, clock, checkpoint, between=60.0, took=1.5, steps_done=25)
    (checkpoint / "a-of-2-ranks").mkdir()
    (checkpoint / "a-of-2-ranks" / "0.safetensors").write_bytes(b"z" * 500)
    save(saving, clock, checkpoint, between=40.0, took=2.5, steps_done=50)
    first, second = read_lines(tmp_path / "checkpoints.jsonl")
    assert first == {"steps_done": 25, "bytes": 1024, "save_seconds": 1.5, "between_saves_seconds": 60.0}
    assert second == {"steps_done": 50, "bytes": 1524, "save_seconds": 2.5, "between_saves_seconds": 40.0}
    assert saving.as_record() == {"save_seconds": 4.0, "between_saves_seconds": 100.0}


def test_a_half_line_of_a_crash_is_cut_off_before_the_next_checkpoint_is_noted(tmp_path, checkpoint):
    path, clock = tmp_path / "checkpoints.jsonl", Clock()
    path.write_text('{"steps_done": 25}\n{"steps_done": 5')
    save(Saving(path, clock), clock, checkpoint, between=60.0, took=1.5, steps_done=50)
    assert [record["steps_done"] for record in read_lines(path)] == [25, 50]


def test_what_became_of_no_checkpoint_counts_as_time_between(tmp_path, checkpoint):
    clock = Clock()
    saving = Saving(tmp_path / "checkpoints.jsonl", clock)
    clock.now += 5
    saving.begins()
    save(saving, clock, checkpoint, between=20.0, took=1.0)
    assert saving.as_record() == {"save_seconds": 1.0, "between_saves_seconds": 25.0}


@pytest.mark.parametrize(
    ("between", "took", "warned"),
    [(1000.0, 1001 * ACCEPTED, True), (1000.0, 999 * ACCEPTED, False), (1.0, NOTICED_SECONDS - 1, False)],
    ids=["above the share", "below", "too short to matter"],
)
def test_checkpoints_that_take_too_much_of_the_time_are_told_once(tmp_path, checkpoint, between, took, warned):
    clock = Clock()
    saving = Saving(tmp_path / "checkpoints.jsonl", clock)
    save(saving, clock, checkpoint, between, took)
    said = saving.warning()
    assert (said is not None) == warned
    if warned:
        assert "5%" in said
        assert "checkpoint.every_steps" in said
        save(saving, clock, checkpoint, between, took)
        assert saving.warning() is None
