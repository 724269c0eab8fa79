"""Rows that a program hands over become files of the run."""

import json

import pytest

from copd.errors import RecipeError
from copd.runs.given import by_split, write_rows
from copd.runs.runlog import RUN_MANIFEST

ROWS = [{"prompt": f"{n} + 1 = ?", "answer": n + 1} for n in range(3)]


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
    before = path.stat()
    assert write_rows(tmp_path, "text", "train", ROWS).stat() == before
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
    ],
)
def test_rows_that_cannot_be_written_are_named(tmp_path, rows, message):
    with pytest.raises(RecipeError, match=message):
        write_rows(tmp_path, "text", "train", rows)
    assert not list(tmp_path.iterdir())


def test_rows_without_splits_are_for_training():
    assert by_split("text", ROWS) == {"train": ROWS}
    assert by_split("text", {"train": ROWS, "test": ROWS[:1]}) == {"train": ROWS, "test": ROWS[:1]}
    with pytest.raises(RecipeError, match=r"^rows.text: unknown split 'dev'; accepted: rows, or train, validation"):
        by_split("text", {"dev": ROWS})
