"""Rows that a program hands over become files of the run."""

import json

import pytest

from copd.errors import RecipeError, WriteError
from copd.runs.given import by_split, wherever_given, write_rows
from copd.runs.runlog import RUN_MANIFEST

ROWS = [{"prompt": f"{n} + 1 = ?", "answer": n + 1} for n in range(3)]
DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


def test_rows_become_lines_of_json_in_the_run_folder(tmp_path):
    path = write_rows(tmp_path, "text", "train", iter(ROWS))
    assert path == tmp_path / "given" / "text-train.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS


def test_a_data_set_with_pictures_becomes_a_parquet_file_that_the_rows_reader_takes(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    from copd.data.check import check_file

    rows = [{**row, "images": [Image.new("RGB", (8, 8), (n, 0, 0))]} for n, row in enumerate(ROWS)]
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "answer": datasets.Value("int64"), "images": [datasets.Image()]}
    )
    path = write_rows(tmp_path, "image", "train", datasets.Dataset.from_list(rows, features=features))
    (report,) = check_file(str(path), print)
    assert (report.rows, report.bad, dict(report.kinds)) == (3, 0, {"image": 3})


def test_the_same_rows_are_written_once_and_others_are_refused(tmp_path):
    path = write_rows(tmp_path, "text", "train", ROWS)
    (tmp_path / RUN_MANIFEST).write_text("{}")
    before = path.stat().st_ino
    assert write_rows(tmp_path, "text", "train", ROWS).stat().st_ino == before, "another file took its place"
    with pytest.raises(RecipeError, match=r"^rows.text.train: the run began with others"):
        write_rows(tmp_path, "text", "train", ROWS[:2])


def test_rows_of_a_start_that_began_no_run_are_replaced(tmp_path):
    write_rows(tmp_path, "text", "train", ROWS[:1])
    path = write_rows(tmp_path, "text", "train", ROWS)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"^rows.text.train: holds no row; accepted: a list of mappings"),
        ("rows.jsonl", r"^rows.text.train: found str; accepted: a list of mappings"),
        ([3], r"^rows.text.train\[0\]: found int; accepted: a list of mappings"),
        ([ROWS[0], {"image": b"png"}], r"^rows.text.train\[1\]: .*bytes is not JSON"),
        ([{"answer": float("nan")}], r"^rows.text.train\[0\]: .*not JSON compliant"),
        ([{"prompt": "half a \ud83d"}], r"^rows.text.train\[0\]: .*surrogates not allowed; accepted"),
        ([{"answer": DEEP}], r"^rows.text.train\[0\]: .*; accepted: a list of mappings"),
    ],
)
def test_rows_that_cannot_be_written_are_named(tmp_path, rows, message):
    with pytest.raises(RecipeError, match=message):
        write_rows(tmp_path, "text", "train", rows)
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_takes_no_rows_is_named(tmp_path):
    (tmp_path / "given").write_text("")
    with pytest.raises(WriteError, match=rf"^{tmp_path}/given/text-train.jsonl: cannot be written: File exists"):
        write_rows(tmp_path, "text", "train", ROWS)


def test_written_rows_are_known_in_whatever_folder_a_run_lies(tmp_path):
    one, other = (
        {"train": [str(write_rows(tmp_path / run, "my-sums", "train", ROWS))]} for run in ("a run", "a\nb/given")
    )
    assert wherever_given(one) == wherever_given(other) == {"train": ["given/my-sums-train.jsonl"]}
    others = {"a/rows.jsonl": 1, "x": ["a/forgiven/t-train.jsonl"], "y": {"a/given/t.jsonl": "given/x/y.jsonl"}}
    two = ["a/given/t-train.jsonl", "b/given/t-train.jsonl"]
    several = {"hashes": dict.fromkeys(two, "1"), "files": two}
    assert wherever_given(others) == others
    assert wherever_given(several) == several, "one of two files of a name must not hide a change of the other"


def test_rows_without_splits_are_for_training():
    assert by_split("text", ROWS) == {"train": ROWS}
    assert by_split("text", {"train": ROWS, "test": ROWS[:1]}) == {"train": ROWS, "test": ROWS[:1]}
    with pytest.raises(RecipeError, match=r"^rows.text: unknown split 'dev'; accepted: rows, or train, validation"):
        by_split("text", {"dev": ROWS})
