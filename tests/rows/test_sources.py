"""Files of JSON lines: every line that is no row is told with its number; the rest is read lazily."""

import json
import os
import time

import pytest

from copd.errors import BadRow, DataError
from copd.rows import sources
from copd.rows.media import DataRoot
from copd.rows.opening import open_rows


@pytest.fixture
def opened(tmp_path):
    def write(content: bytes, name="f.jsonl"):
        path = tmp_path / name
        path.write_bytes(content)
        return open_rows(path, name, DataRoot.at(tmp_path))

    return write


def told(file) -> list[tuple[int, object]]:
    return [(line, str(row) if isinstance(row, BadRow) else row) for line, _, row in file.scan()]


def test_rows_are_read_in_order_and_again_by_their_position(opened):
    rows = [{"i": i, "text": "é" * i} for i in range(50)]
    file = opened("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    scanned = list(file.scan())
    assert [row for _, _, row in scanned] == rows
    assert [line for line, _, _ in scanned] == list(range(1, 51))
    assert [file.read(position) for _, position, _ in reversed(scanned)] == rows[::-1]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_byte_order_mark_windows_line_ends_and_empty_lines_are_passed_over(opened, mark, end):
    file = opened(mark + end.join([b'{"a": 1}', b"", b"  ", b'{"a": 2}', b""]))
    assert told(file) == [(1, {"a": 1}), (4, {"a": 2})]
    assert [file.read(position)["a"] for _, position, _ in file.scan()] == [1, 2]
    assert file.first_columns() == {"a"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        (b"{'a': 1}", "not JSON: Expecting property name"),
        (b'{"a": "b', "not JSON: Unterminated string starting at column 7"),
        (b'{"a": NaN}', "not JSON: NaN is not a JSON value"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is not a JSON value"),
        (b'{"a": 1, "a": 2}', "not JSON: key 'a' is given twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": 1}\r{"a": 2}', "not JSON: Extra data at column 10; end lines in LF, not in CR alone"),
        (b'{"a": 1} {"a": 2}', "not JSON: Extra data at column 10; a line is one row"),
        (b"[1]", "a list; accepted: a JSON object"),
        (b"null", "null; accepted: a JSON object"),
        (b"3", "a number or truth value"),
        (b'"text"', "a text"),
    ],
)
def test_a_line_that_is_no_row_is_told_and_the_others_are_read(opened, line, reason):
    first, bad, last = told(opened(b'{"a": 1}\n' + line + b'\n{"a": 2}\n'))
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 2}))
    assert bad[0] == 2
    assert reason in bad[1]


def test_a_mark_within_joined_files_is_passed_over(opened):
    mark = b"\xef\xbb\xbf"
    file = opened(b'{"a": 1}\n' + mark + b'{"a": 2}\n')
    assert told(file) == [(1, {"a": 1}), (2, {"a": 2})]
    assert [file.read(position)["a"] for _, position, _ in file.scan()] == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_a_file_in_utf_16_is_refused_by_its_encoding_without_a_mark_too(opened, encoding):
    with pytest.raises(DataError, match=r"^f.jsonl: starts like UTF-16 without a mark; save it as UTF-8$"):
        told(opened('{"a": 1}\n'.encode(encoding)))


def test_a_row_of_many_keys_is_read_or_refused_at_once(opened):
    keys = [f"k{i}" for i in range(50_000)]
    many = ", ".join(f'"{key}": 1' for key in keys)
    started = time.monotonic()
    (_, row), (_, twice) = told(opened(f'{{{many}}}\n{{{many}, "k49999": 2}}\n'.encode()))
    assert row == dict.fromkeys(keys, 1)
    assert twice == "not JSON: key 'k49999' is given twice"
    assert time.monotonic() - started < 5, "a count for each key would take half a minute"


def test_a_line_that_is_no_row_is_refused_at_its_position_too(opened):
    file = opened(b'{"a": 1}\n[1]\n')
    _, (_, position, bad) = file.scan()
    with pytest.raises(BadRow, match=f"^{bad}$"):
        file.read(position)


def test_a_line_longer_than_the_bound_is_told_with_its_size_and_passed_over(opened, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ROW_BYTES", 100)
    long = b'{"a": "' + b"x" * 1000 + b'"}\n'
    file = opened(b'{"a": 1}\n' + long + b'{"a": 2}\n')
    assert told(file) == [(1, {"a": 1}), (2, f"a line of {len(long)} bytes; accepted: at most 100"), (3, {"a": 2})]
    assert file.read(list(file.scan())[2][1]) == {"a": 2}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.jsonl", b"", "f.jsonl: empty, 0 bytes"),
        ("f.jsonl", b"\n\n", "f.jsonl: no line in it holds a row"),
        ("f.jsonl", b"not json\n", "f.jsonl: no row in it is a JSON object; line 1: not JSON: Expecting value"),
        ("f.jsonl", b'\n{"a": NaN}\n{"a": NaN}', "object; line 2: not JSON: NaN is not a JSON value$"),
        ("f.jsonl", b'{"a": "\xe9"}\n', "no row in it is a JSON object; line 1: not UTF-8 at byte 8$"),
        ("f.json", b'{\n "a": 1\n}\n', "object; line 1: not JSON: .* at column 2; a row is one line$"),
        ("f.json", b"[]", "f.json: no line in it holds a row"),
        ("f.jsonl", b"PK\x03\x04...", "f.jsonl: is a zip archive; unpack it first"),
        ("f.jsonl", b"\x1f\x8b\x08...", "f.jsonl: is compressed with gzip"),
        ("f.jsonl", '{"a": 1}'.encode("utf-16"), "f.jsonl: is UTF-16; save it as UTF-8"),
        ("f.jsonl", b"PAR1....", "f.jsonl: is parquet"),
        ("f.parquet", b"PAR1" * 20, "f.parquet: not a sound parquet file"),
        ("f.csv", b"a,b", "f.csv: accepted: a file, named .jsonl, .ndjson, .json or .parquet"),
        ("f.jsonl.gz", b"\x1f\x8b", "f.jsonl.gz: accepted: a file, named"),
        ("f.zip", b"PK", "f.zip: accepted: a file, named"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_by_name(opened, name, content, said):
    with pytest.raises(DataError, match=said):
        opened(content, name).first_columns()


def test_what_is_no_readable_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    started = time.monotonic()
    for name, said in (
        ("pipe.jsonl", "not a regular file"),
        ("folder.jsonl", "a folder; accepted: a file, named .jsonl, .ndjson, .json or .parquet"),
        ("missing.jsonl", "no such file; accepted: a file, named .* or hub:OWNER/NAME of the hub"),
    ):
        with pytest.raises(DataError, match=f"^{name}: {said}"):
            open_rows(tmp_path / name, name, DataRoot.at(tmp_path))
    assert time.monotonic() - started < 5


def test_a_file_that_the_system_does_not_open_is_refused_at_once(tmp_path, no_more_files):
    (tmp_path / "f.jsonl").write_text('{"a": 1}\n')
    with no_more_files(), pytest.raises(DataError, match=r"^f\.jsonl: cannot be read: Too many open files$"):
        open_rows(tmp_path / "f.jsonl", "f.jsonl", DataRoot.at(tmp_path))


def test_a_file_that_was_written_to_is_not_read_at_old_positions(opened, tmp_path):
    file = opened(b'{"a": 1}\n{"a": 2}\n')
    (tmp_path / "f.jsonl").write_bytes(b'{"a": 1, "b": 3}\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"f.jsonl: has changed since it was first read"):
        file.read(9)
