"""Rows copied into a new file: what may stand together, that it stands there unchanged, and that it is there whole."""

import json
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from copd.errors import DataError
from copd.rewards.answers import final_answer
from copd.rows.copies import check_copy, write_copy
from copd.rows.formats import RowRules
from copd.rows.opening import Settings, open_files

RULES = RowRules(frozenset({"exact"}), partial(final_answer, finished=True), verifier="exact")
SETTINGS = Settings(RULES)
NATIVE, TRL = {"prompt": "1+1?", "answer": "2"}, {"prompt": "1+1?", "solution": "2"}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Files of rows by name, opened; names are relative to the folder they are in."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("a.png")

    def write(settings=SETTINGS, **files):
        names = []
        for name, rows in files.items():
            if isinstance(rows, pyarrow.Table):
                names.append(f"{name}.parquet")
                pyarrow.parquet.write_table(rows, names[-1], row_group_size=3)
            else:
                names.append(f"{name}.jsonl")
                (tmp_path / names[-1]).write_text("\n".join(map(json.dumps, rows)))
        return open_files(names, "train", settings)

    return write


def verl(i):
    return {
        "prompt": [{"role": "user", "content": f"{i}?"}],
        "images": [{"bytes": b"\x89PNG" * i, "path": None}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "level": "hard",
    }


def test_rows_of_parquet_keep_their_columns_their_types_and_their_order(opened, tmp_path):
    first, second = (pyarrow.Table.from_pylist([verl(i) for i in range(n, n + 8)]) for n in (0, 8))
    first, second = (table.replace_schema_metadata({"huggingface": "{}"}) for table in (first, second))
    sources = opened(a=first, b=second)
    write_copy([(sources[0].file, [0, 2, 7]), (sources[1].file, [3])], tmp_path / "out.parquet")
    copy = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert copy.schema.equals(pyarrow.parquet.read_schema("a.parquet"), check_metadata=True)
    assert copy.to_pylist() == [verl(i) for i in (0, 2, 7, 11)]
    assert [name.name for name in tmp_path.glob(".*")] == []


def test_the_last_row_of_a_file_stays_a_line_of_its_own(opened, tmp_path):
    sources = opened(a=[NATIVE, NATIVE | {"id": 1}], b=[NATIVE | {"id": 2}])
    write_copy([(sources[0].file, [0, len(json.dumps(NATIVE)) + 1]), (sources[1].file, [0])], tmp_path / "out.jsonl")
    rows = [NATIVE, NATIVE | {"id": 1}, NATIVE | {"id": 2}]
    assert (tmp_path / "out.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_too_large_together_are_unpacked_one_by_one(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("copd.rows.parquet.WHOLE_BATCH_BYTES", 10)
    rows = [verl(i) for i in range(5)]
    (source,) = opened(a=pyarrow.Table.from_pylist(rows))
    write_copy([(source.file, [1, 4])], tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist() == [rows[1], rows[4]]


def test_parquet_files_of_different_columns_do_not_become_one(opened, tmp_path):
    one, other = (pyarrow.Table.from_pylist([NATIVE | {"level": level}]) for level in (1, "hard"))
    sources = opened(a=one, b=other)
    with pytest.raises(DataError, match=r"b.parquet: its columns differ from those of the file before"):
        write_copy([(source.file, [0]) for source in sources], tmp_path / "out.parquet")
    assert not [name for name in tmp_path.iterdir() if "out" in name.name]


def test_a_file_written_to_since_it_was_opened_is_not_copied_from(opened, tmp_path):
    (source,) = opened(a=[NATIVE])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"a.jsonl: has changed since it was first read"):
        write_copy([(source.file, [0])], tmp_path / "out.jsonl")
    assert not [name for name in tmp_path.iterdir() if "out" in name.name]


def test_a_file_that_appears_meanwhile_is_left_alone(opened, tmp_path):
    (source,) = opened(a=[NATIVE])
    check_copy([source], SETTINGS, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(DataError, match=r"out.jsonl: exists already; give another name"):
        write_copy([(source.file, [0])], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    ("files", "out", "said"),
    [
        ({"a": [NATIVE], "b": [TRL]}, "out.jsonl", r"a.jsonl \(native\), b.jsonl \(trl\): one file holds rows of one"),
        ({"a": [NATIVE], "b": pyarrow.Table.from_pylist([NATIVE])}, "out.jsonl", r"b.parquet \(native\): one file"),
        ({"a": [NATIVE]}, "out.parquet", r"--out out.parquet: rows stay as they are; name it .jsonl"),
        ({"a": pyarrow.Table.from_pylist([NATIVE])}, "out.jsonl", "name it .parquet"),
        ({"a": [NATIVE]}, "a.jsonl", "exists already"),
        (
            {"a": [NATIVE | {"videos": [["a.png"]]}]},
            "new/out.jsonl",
            "by paths that start at .; write it into that folder",
        ),
    ],
)
def test_what_cannot_stand_in_the_new_file_is_refused(opened, tmp_path, files, out, said):
    with pytest.raises(DataError, match=said):
        check_copy(opened(**files), SETTINGS, Path(out))


def test_paths_of_media_hold_in_the_same_folder_from_a_data_root_and_where_there_are_none(opened, tmp_path):
    rows = [NATIVE | {"images": ["a.png"]}]
    check_copy(opened(a=rows), SETTINGS, tmp_path / "out.jsonl")
    rooted = Settings(RULES, data_root=tmp_path)
    check_copy(opened(rooted, a=rows), rooted, tmp_path / "new" / "out.jsonl")
    check_copy(opened(a=[NATIVE | {"images": [{"bytes": "iVBORw=="}]}]), SETTINGS, tmp_path / "new" / "out.jsonl")
