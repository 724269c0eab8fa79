"""Parquet files: rows lazily and by position, and what a small hostile file can unpack to. The files are real ones."""

import subprocess
import sys

import pytest

from copd.errors import BadRow, DataError
from copd.rows.media import DataRoot
from copd.rows.opening import open_rows

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")

from pyarrow import parquet as writer  # noqa: E402

from copd.rows import parquet  # noqa: E402

ROWS = [
    {
        "id": i,
        "prompt": [{"role": "user", "content": f"question {i}"}],
        "images": [{"bytes": bytes([i % 256]) * 20, "path": None}] if i % 3 else [],
        "reward_model": {"style": "rule", "ground_truth": str(i)},
        "level": None if i % 2 else "hard",
    }
    for i in range(1000)
]


@pytest.fixture
def opened(tmp_path):
    def write(table, **options):
        table = pyarrow.Table.from_pylist(table) if isinstance(table, list) else table
        writer.write_table(table, tmp_path / "f.parquet", **options)
        return open_rows(tmp_path / "f.parquet", "f.parquet", DataRoot.at(tmp_path))

    return write


@pytest.mark.parametrize("options", [{}, {"row_group_size": 64}, {"use_dictionary": False}, {"store_schema": False}])
def test_rows_are_read_in_order_and_again_by_their_position(opened, options):
    file = opened(ROWS, **options)
    assert list(file.scan()) == [(i + 1, i, row) for i, row in enumerate(ROWS)]
    assert [file.read(i) for i in (999, 0, 500, 63, 64)] == [ROWS[i] for i in (999, 0, 500, 63, 64)]
    assert file.first_columns() == set(ROWS[0])


def test_a_row_group_too_large_to_keep_is_read_up_to_the_row(opened, monkeypatch):
    monkeypatch.setattr(parquet, "KEPT_BYTES", 100)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 10)
    file = opened(ROWS, row_group_size=400)
    assert [file.read(i) for i in (999, 0, 405)] == [ROWS[i] for i in (999, 0, 405)]


def test_batches_too_large_to_unpack_at_once_are_unpacked_row_by_row(opened, monkeypatch):
    monkeypatch.setattr(parquet, "WHOLE_BATCH_BYTES", 100)
    assert [row for _, _, row in opened(ROWS).scan()] == ROWS


def test_columns_of_odd_types_are_read(opened):
    table = pyarrow.table(
        {
            "prompt": ["?"],
            "map": pyarrow.array([[("k", "v")]], pyarrow.map_(pyarrow.string(), pyarrow.string())),
            "large": pyarrow.array([["x"]], pyarrow.large_list(pyarrow.large_string())),
            "none": pyarrow.array([None], pyarrow.null()),
            "fixed": pyarrow.array([b"abc"], pyarrow.binary(3)),
            "nested": [[["a", "b"], []]],
        }
    )
    ((_, _, row),) = opened(table).scan()
    assert row == {"prompt": "?", "map": [("k", "v")], "large": ["x"], "none": None, "fixed": b"abc"} | {
        "nested": [["a", "b"], []]
    }


def repeated(text: str, times: int):
    """`text` so many times, stored once."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * times, pyarrow.int32()), pyarrow.array([text]))


def test_a_long_text_that_stands_in_every_row_is_not_unpacked_for_all_of_them(opened, tmp_path):
    """100,000 rows of one mebibyte each are 100 gigabytes; the file has some 50 kilobytes."""
    opened(pyarrow.table({"prompt": repeated("x" * 2**20, 100_000), "answer": ["1"] * 100_000}), store_schema=False)
    assert (tmp_path / "f.parquet").stat().st_size < 200_000
    script = (
        "import resource, sys; from itertools import islice; from pathlib import Path\n"
        "from copd.rows.media import DataRoot; from copd.rows.opening import open_rows\n"
        "path = Path(sys.argv[1]); file = open_rows(path, 'f', DataRoot.at(path.parent)); file.first_columns()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert all(len(row['prompt']) == 2**20 for _, _, row in islice(file.scan(), 500)); file.read(99_999)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "f.parquet")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200, "one batch unpacked would take 4 gigabytes"


def test_a_row_larger_than_the_bound_is_told_with_its_full_size(opened):
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 2, 1_000_002]), repeated("x" * 2**20, 1_000_002))
    file = opened(pyarrow.table({"prompt": lists, "answer": ["1", "2"]}), store_schema=False)
    (_, _, small), (line, position, large) = file.scan()
    assert small["answer"] == "1"
    assert (line, str(large)) == (2, "a row of 1048576000001 bytes; accepted: at most 67108864")
    with pytest.raises(BadRow, match="a row of 1048576000001 bytes"):
        file.read(position)


def test_a_text_of_a_row_beyond_the_bound_is_not_unpacked(opened, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(parquet, "WHOLE_BATCH_BYTES", 100)
    file = opened([{"prompt": "x" * 2000}, {"prompt": "?"}])
    (_, position, large), small = file.scan()
    assert (str(large), small) == ("a row of 2000 bytes; accepted: at most 1000", (2, 1, {"prompt": "?"}))
    with pytest.raises(BadRow, match="a row of 2000 bytes"):
        file.read(position)


@pytest.mark.parametrize(("bound", "value"), [("MAX_UNPACKED_BYTES", 5000), ("MAX_VALUES", 900)])
def test_a_row_group_that_declares_too_much_is_refused_before_it_is_read(opened, monkeypatch, bound, value):
    monkeypatch.setattr(parquet, bound, value)
    with pytest.raises(DataError, match=r"f.parquet: row group 0 of column \w+.* unpacks to \d+ bytes, 1000 values"):
        list(opened(ROWS).scan())


def varint(number: int, size: int = 0) -> bytes:
    """A number as the end of a parquet file has it, in that many bytes: base 128 of its double, the lowest first."""
    digits = [2 * number >> shift & 127 for shift in range(0, 7 * max(size, -(-(2 * number).bit_length() // 7)), 7)]
    return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])


@pytest.mark.parametrize("use", [lambda file: list(file.scan()), lambda file: file.read(50)])
def test_a_file_that_declares_less_than_it_holds_is_refused_when_that_is_seen(opened, tmp_path, use):
    table = pyarrow.table({"prompt": [chr(97 + i % 26) * 2**20 for i in range(100)], "answer": ["1"] * 100})
    honest = opened(table, use_dictionary=False, compression="zstd", column_encoding={"prompt": "PLAIN"})
    group = writer.read_metadata(tmp_path / "f.parquet").row_group(0)
    content = (tmp_path / "f.parquet").read_bytes()
    assert len(content) < 50_000
    assert len(use(honest)) in (100, 2)
    for declared in {group.total_byte_size, group.column(0).total_uncompressed_size}:
        assert varint(declared) in content
        content = content.replace(varint(declared), varint(1000, len(varint(declared))))
    (tmp_path / "g.parquet").write_bytes(content)
    said = r"g.parquet: row group 0 declares 1000 bytes, but 100 rows of it unpack to 1048\d{5}"
    with pytest.raises(DataError, match=said):
        use(open_rows(tmp_path / "g.parquet", "g.parquet", DataRoot.at(tmp_path)))


@pytest.mark.parametrize("kept", [parquet.KEPT_BYTES, 0], ids=["kept", "read up to the row"])
def test_a_row_group_of_fewer_rows_than_it_declares_is_refused(opened, tmp_path, monkeypatch, kept):
    monkeypatch.setattr(parquet, "KEPT_BYTES", kept)
    opened(ROWS, row_group_size=600)
    sound = (tmp_path / "f.parquet").read_bytes()
    at = sound.rindex(varint(600))  # after the numbers of values of the group's columns, that of its rows
    (tmp_path / "g.parquet").write_bytes(sound[:at] + varint(700) + sound[at + len(varint(600)) :])
    file = open_rows(tmp_path / "g.parquet", "g.parquet", DataRoot.at(tmp_path))
    assert writer.read_metadata(tmp_path / "g.parquet").row_group(0).num_rows == 700
    said = "g.parquet: row group 0 declares 700 rows, has 600; write the file anew"
    with pytest.raises(DataError, match=said):
        list(file.scan())
    with pytest.raises(DataError, match=said):
        file.read(699)


def test_many_equal_numbers_are_no_lie_though_they_are_stored_in_next_to_nothing(opened, monkeypatch):
    monkeypatch.setattr(parquet, "WHOLE_BATCH_BYTES", 0)
    rows = [{"prompt": "?", "answer": 7, "mask": [1] * 500} for _ in range(2000)]
    file = opened(rows)
    assert [row for _, _, row in file.scan()] == rows
    assert file.read(1999) == rows[0]


def test_a_text_that_is_not_utf8_is_a_bad_row_and_the_others_are_read(opened):
    words = pyarrow.array([b"one", b"\xff\xfe", b"three"])
    texts = pyarrow.StringArray.from_buffers(3, *words.buffers()[1:])
    file = opened(pyarrow.table({"prompt": texts, "answer": ["1", "2", "3"]}))
    first, (line, position, bad), last = file.scan()
    assert (first[2]["prompt"], last[2]["prompt"]) == ("one", "three")
    assert (line, str(bad)) == (2, "a text in it is not UTF-8")
    with pytest.raises(BadRow, match="not UTF-8"):
        file.read(position)


@pytest.mark.parametrize(
    "dates",
    [
        pyarrow.array([0, 2**31 - 1, 1], pyarrow.date32()),
        pyarrow.array([0, 2**60, 1], pyarrow.timestamp("ms")),
        pyarrow.array([None, 0, None], pyarrow.timestamp("ms", "Nowhere/Town")),
    ],
    ids=["a date", "a time", "an unknown time zone"],
)
def test_a_value_that_python_cannot_hold_is_a_bad_row_and_the_others_are_read(opened, dates):
    file = opened(pyarrow.table({"prompt": ["one", "two", "three"], "answer": ["1", "2", "3"], "at": dates}))
    first, (line, position, bad), last = file.scan()
    assert (first[2]["prompt"], last[2]["prompt"]) == ("one", "three")
    assert line == 2
    assert str(bad).startswith("a value in it cannot be held in Python (")
    with pytest.raises(BadRow, match="cannot be held in Python"):
        file.read(position)


def test_a_column_that_is_there_twice_is_refused_for_either_could_be_meant(opened):
    table = pyarrow.table([["one"], ["two"], ["3"]], names=["prompt", "prompt", "answer"])
    with pytest.raises(DataError, match=r"^f\.parquet: column 'prompt' is there twice; write the file anew with one$"):
        list(opened(table).scan())


def test_a_damaged_file_is_refused_by_name(opened, tmp_path):
    opened(ROWS, write_page_checksum=True)
    sound = (tmp_path / "f.parquet").read_bytes()
    for content in (sound[:-100], sound[:50], sound[:2000] + bytes(2000) + sound[4000:], sound[:-8] + bytes(8)):
        (tmp_path / "g.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"g.parquet: not a sound parquet file"):
            list(open_rows(tmp_path / "g.parquet", "g.parquet", DataRoot.at(tmp_path)).scan())


def test_a_file_that_was_written_to_is_not_read_at_old_positions(opened):
    file = opened(ROWS)
    assert file.read(3) == ROWS[3]
    opened(ROWS[:500])
    with pytest.raises(DataError, match=r"f.parquet: has changed since it was first read"):
        file.read(3)


def test_without_pyarrow_the_extra_is_named(tmp_path):
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    script = (
        "import sys; sys.modules['pyarrow'] = None; from pathlib import Path\n"
        "from copd.rows.media import DataRoot; from copd.rows.opening import open_rows\n"
        "path = Path(sys.argv[1]); open_rows(path, 'f.parquet', DataRoot.at(path.parent))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "f.parquet")], capture_output=True, text=True)
    assert "DataError: parquet files need pyarrow: pip install pyarrow" in done.stderr
