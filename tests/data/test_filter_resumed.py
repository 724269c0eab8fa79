"""`copd data filter` after an interruption: it goes on with the chunks that are left, under the same settings."""

import json
import signal
import subprocess
import sys

import pytest
from test_filter import SUMS, recipe_of, sum_row, write

from copd.branches.rater import Rater
from copd.data.answered import Answered
from copd.data.filter import PROGRESS, filter_rows
from copd.errors import CheckpointError, DataError, WriteError
from copd.recipe.model import Recipe

CHUNKS = [*range(6)]
BAD = 25
"""A row of the last chunk that is not among those that are tried at the start."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """28 rows, in six chunks."""
    folder = tmp_path_factory.mktemp("rows")
    others = {name: write(folder / f"{name}.jsonl", [sum_row(8, 8)]) for name in ("validation", "test")}
    return recipe_of(write(folder / "rows.jsonl", [sum_row(a, b) for a, b in SUMS]), **others)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> bytes:
    """The file of a filter that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    filter_rows(recipe, "text", out)
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]
    return out.read_bytes()


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The numbers of the chunks that are answered from now on in this process."""
    numbers, rate = [], Rater.rate

    def spy(self, number, places, samples):
        numbers.append(number)
        return rate(self, number, places, samples)

    monkeypatch.setattr(Rater, "rate", spy)
    return numbers


def interrupted(recipe, out, monkeypatch, at=3):
    """A filter into `out` that fails at a chunk."""

    class Interrupted(Exception):
        pass

    def rate(self, number, places, samples, rate=Rater.rate):
        if number == at:
            raise Interrupted
        return rate(self, number, places, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Rater, "rate", rate)
        with pytest.raises(Interrupted):
            filter_rows(recipe, "text", out)
    return out.with_name(out.name + PROGRESS)


def test_an_interrupted_filter_goes_on_with_the_chunks_that_are_left(recipe, whole, asked, tmp_path, monkeypatch):
    out = tmp_path / "new" / "out.jsonl"
    progress = interrupted(recipe, out, monkeypatch)
    with progress.open("ab") as file:
        file.write(b'{"chunk": 3, "rig')
    assert not out.exists()
    asked.clear()
    filter_rows(recipe, "text", out)
    assert asked == CHUNKS[3:]
    assert out.read_bytes() == whole
    assert not progress.exists()


def test_a_filter_that_was_interrupted_before_it_wrote_its_result_asks_nothing(
    recipe, whole, asked, tmp_path, monkeypatch
):
    out = tmp_path / "out.jsonl"

    def full(kept, out):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("copd.data.filter.write_copy", full)
        with pytest.raises(OSError, match="full"):
            filter_rows(recipe, "text", out)
    assert asked == CHUNKS
    filter_rows(recipe, "text", out)
    assert asked == CHUNKS
    assert out.read_bytes() == whole


def test_changed_settings_are_named_and_refused_and_others_may_change(recipe, whole, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    progress = interrupted(recipe, out, monkeypatch, at=1)
    before = progress.read_bytes()
    sampling = recipe.sampling.model_copy(update={"temperature": 0.5})
    for changed, samples, told in (
        (recipe.model_copy(update={"seed": 7}), None, "cannot go on: recipe.seed was 0 and is now 7"),
        (recipe.model_copy(update={"sampling": sampling}), None, "recipe.sampling.temperature was 1.0 and is now 0.5"),
        (recipe, 3, "cannot go on: samples was 4 and is now 3"),
    ):
        with pytest.raises(CheckpointError) as refused:
            filter_rows(changed, "text", out, samples=samples)
        assert told in str(refused.value)
        assert str(refused.value).endswith(f"\nremove {progress} to start anew")
    assert progress.read_bytes() == before
    filter_rows(recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"cycles": 9})}), "text", out)
    assert out.read_bytes() == whole


def test_changed_rows_are_refused(tmp_path, monkeypatch):
    recipe = recipe_of(write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in SUMS]), validation_share=0.1)
    interrupted(recipe, tmp_path / "out.jsonl", monkeypatch, at=1)
    write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in reversed(SUMS)])
    with pytest.raises(CheckpointError, match=r"cannot go on: rows_sha256\.\S+rows\.jsonl was '"):
        filter_rows(recipe, "text", tmp_path / "out.jsonl")


def test_a_row_found_bad_while_it_is_asked_ends_the_filter_or_is_left_out(asked, tmp_path, caplog):
    rows = [sum_row(a, b) for a, b in SUMS]
    rows[BAD] |= {"images": ["bad.png"]}
    (tmp_path / "bad.png").write_bytes(b"no picture")
    others = {name: write(tmp_path / f"{name}.jsonl", [sum_row(8, 8)]) for name in ("validation", "test")}
    path, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    for _ in range(2):
        with pytest.raises(DataError, match=rf"rows\.jsonl:{BAD + 1}: image 'bad\.png': not a picture"):
            filter_rows(recipe_of(path, **others), "text", out)
    assert asked == [*CHUNKS, CHUNKS[-1]]
    assert "5 of 6 chunks of rows are answered" in caplog.text
    found, _ = filter_rows(recipe_of(path, **others, bad_rows="skip", max_bad_rows=1), "text", out)
    assert found.rows == len(rows) - 1
    assert "bad rows left out: 1;" in caplog.text
    assert b"bad.png" not in out.read_bytes()
    assert asked[7:] == CHUNKS[-1:]


def test_of_a_filter_that_answered_nothing_nothing_is_left_that_could_refuse_another(recipe, tmp_path, monkeypatch):
    progress = interrupted(recipe, tmp_path / "out.jsonl", monkeypatch, at=0)
    assert not progress.exists()
    progress.write_text('{"settings": {"seed": 3}}\n{"chunk": ')  # left by SIGKILL
    answered = Answered(progress, {"seed": 4})
    answered.close()
    assert answered.chunks == {}
    assert progress.read_text() == '{"settings": {"seed": 4}}\n'


def test_a_damaged_file_and_one_in_use_are_refused(recipe, tmp_path):
    out = tmp_path / "out.jsonl"
    progress = tmp_path / f"out.jsonl{PROGRESS}"
    progress.write_text('{"chunk": 0}\n{"chunk": 1}\n')
    with pytest.raises(CheckpointError, match=f"damaged, cannot go on .*; remove {progress} to start anew"):
        filter_rows(recipe, "text", out)
    progress.unlink()
    other = Answered(progress, {})
    with pytest.raises(CheckpointError, match="another process filters into it"):
        filter_rows(recipe, "text", out)
    other.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_filter_ended_by_a_signal_is_taken_up_by_the_same_command(recipe, whole, asked, tmp_path, number, command):
    given = recipe.model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(json.dumps(given))
    arguments = ["data", "filter", "--recipe", "recipe.yaml", "--branch", "text", "--out", "out.jsonl"]
    script = (
        "import os, sys\nfrom copd.branches.rater import Rater\nfrom copd.cli import main\nrate = Rater.rate\n"
        "def killed(self, number, places, samples):\n"
        f"    if number == 2: os.kill(os.getpid(), {int(number)})\n"
        "    return rate(self, number, places, samples)\n"
        f"Rater.rate = killed\nsys.argv = {['copd', *arguments]}\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == (-number if number == signal.SIGKILL else 128 + number), ended.stderr
    if number != signal.SIGKILL:
        assert f"out.jsonl{PROGRESS}: 2 of 6 chunks of rows are answered; the same command goes on" in ended.stderr
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert asked == CHUNKS[2:]
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_place_in_which_nothing_can_be_written_is_told_before_any_row_is_asked(recipe, tmp_path, asked):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file/out\.jsonl\.progress\.jsonl: cannot be written: File exists"):
        filter_rows(recipe, "text", tmp_path / "file" / "out.jsonl")
    assert not asked
