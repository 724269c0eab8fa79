"""JSON lines: what is written is read back, whole lines only, and a cut goes back to a remembered size."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from copd.errors import CheckpointError
from copd.runs.runlog import JsonLines, read_lines, write_lines

RECORDS = [
    {"event": "update", "step": 0, "loss": -0.125},
    {"text": 'quote " backslash \\ newline \n return \r line separator \u2028 NUL \x00'},
    {"text": "größer, 数字, \U0001f600"},
    {"nested": {"a": [1, 2, {"b": None}]}, "flag": True},
    {},
]


def test_records_come_back_as_they_were(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for record in RECORDS:
        log.write(record)
    assert list(read_lines(tmp_path / "log.jsonl")) == RECORDS


def test_every_record_is_one_line_of_valid_json(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for record in RECORDS:
        log.write(record)
    lines = (tmp_path / "log.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == RECORDS
    assert lines[-1] == b""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(tmp_path, value):
    JsonLines(tmp_path / "log.jsonl").write({"loss": value, "deep": [{"kl": (1.0, value)}]})
    assert list(read_lines(tmp_path / "log.jsonl")) == [{"loss": None, "deep": [{"kl": [1.0, None]}]}]


def test_a_lone_surrogate_can_be_written(tmp_path):
    JsonLines(tmp_path / "log.jsonl").write({"response": "\ud800"})
    assert len(list(read_lines(tmp_path / "log.jsonl"))) == 1


def test_a_written_line_survives_sigkill(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from copd.runs.runlog import JsonLines\n"
        "JsonLines(Path(sys.argv[1])).write({'step': 7}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "log.jsonl"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert list(read_lines(path)) == [{"step": 7}]


def test_an_existing_file_is_continued(tmp_path):
    path = tmp_path / "log.jsonl"
    JsonLines(path).write({"step": 0})
    again = JsonLines(path)
    assert again.size == path.stat().st_size
    again.write({"step": 1})
    assert list(read_lines(path)) == [{"step": 0}, {"step": 1}]


def test_size_is_the_number_of_bytes_on_disk(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    assert log.size == 0
    for record in RECORDS:
        log.write(record)
        assert log.size == log.path.stat().st_size


@pytest.mark.parametrize("kept", range(len(RECORDS) + 1))
def test_after_a_cut_the_record_goes_on_as_if_the_rest_had_never_been(tmp_path, kept):
    log = JsonLines(tmp_path / "log.jsonl")
    sizes = [log.size]
    for record in RECORDS:
        log.write(record)
        sizes.append(log.size)
    log.truncate(sizes[kept])
    assert log.size == sizes[kept]
    for record in RECORDS[kept:]:
        log.write(record)
    assert list(read_lines(log.path)) == RECORDS


def test_a_cut_removes_the_half_line_of_a_crash(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    log.write({"step": 0})
    size = log.size
    with path.open("ab") as file:
        file.write(b'{"step": 1, "lo')
    resumed = JsonLines(path)
    resumed.truncate(size)
    resumed.write({"step": 1})
    assert list(read_lines(path)) == [{"step": 0}, {"step": 1}]


def test_a_cut_beyond_the_end_adds_nothing(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.write({"step": 0})
    log.truncate(log.size + 10)
    log.write({"step": 1})
    assert list(read_lines(log.path)) == [{"step": 0}, {"step": 1}]


def test_a_half_written_last_line_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "lo')
    assert list(read_lines(path)) == [{"step": 0}]


def test_a_last_line_cut_off_anywhere_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    log.write({"step": 0})
    first = log.size
    log.write({"text": "größer"})
    whole = path.read_bytes()
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_lines(path)) == [{"step": 0}], whole[:end]


def test_an_empty_file_has_no_records(tmp_path):
    JsonLines(tmp_path / "log.jsonl")
    assert list(read_lines(tmp_path / "log.jsonl")) == []


def test_of_a_file_that_is_shorter_than_remembered_whole_lines_are_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "lo')
    log = JsonLines(path)
    log.truncate(100)
    log.write({"step": 2})
    assert list(read_lines(path)) == [{"step": 0}, {"step": 2}]


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=["broken", "deep"])
def test_a_line_that_is_not_json_is_named(tmp_path, text):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{text}\n')
    with pytest.raises(ValueError, match="line 2: "):
        list(read_lines(path))


def test_a_full_disk_is_named_and_leaves_whole_lines_only(tmp_path, in_small_files):
    script = (
        "from copd.errors import CheckpointError; from copd.runs.runlog import JsonLines\n"
        "small()\n"
        "log = JsonLines(path); log.write({'step': 0})\n"
        "try: log.write({'text': 'x' * 1000})\n"
        "except CheckpointError as error: print(error)\n"
        "assert log.size == path.stat().st_size\n"
        "log.write({'step': 1}); log.close()\n"
    )
    path = tmp_path / "log.jsonl"
    assert f"{path}: cannot be written: " in in_small_files(script, path)
    assert list(read_lines(path)) == [{"step": 0}, {"step": 1}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_disk_that_takes_nothing_is_named_in_writing_and_in_syncing():
    log = JsonLines(Path("/dev/full"))
    with pytest.raises(CheckpointError, match=r"^/dev/full: cannot be written: .*No space left"):
        log.write({"step": 1})
    with pytest.raises(CheckpointError, match=r"^/dev/full: cannot be written: .*Invalid argument"):
        log.sync()


def test_a_whole_file_is_written_at_once_and_read_back(tmp_path):
    path = tmp_path / "answers.jsonl"
    write_lines(path, RECORDS)
    assert list(read_lines(path)) == RECORDS
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_lines(path, [{"value": math.nan}])
    assert list(read_lines(path)) == RECORDS
    assert [p.name for p in tmp_path.iterdir()] == ["answers.jsonl"]
