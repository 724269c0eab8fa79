"""A file that is one JSON list of objects: read object by object, and refused where it is none."""

import json
from functools import partial

import pytest

from copd.errors import BadRow, DataError
from copd.rows import json_list
from copd.rows.formats import RowRules
from copd.rows.media import DataRoot
from copd.rows.opening import Settings, Source, open_rows
from copd.rows.rows import index_rows

ROWS = [{"a": i, "text": '}] \\" é' * i, "inner": {"list": [{}, []]}} for i in range(5)]


@pytest.fixture
def opened(tmp_path):
    def write(content: bytes, name="f.json"):
        (tmp_path / name).write_bytes(content)
        return open_rows(tmp_path / name, name, DataRoot.at(tmp_path))

    return write


@pytest.mark.parametrize("written", [json.dumps, partial(json.dumps, indent=2, ensure_ascii=False)])
@pytest.mark.parametrize("name", ["f.json", "f.jsonl"])
def test_the_objects_of_a_list_are_read_in_order_and_again_by_their_position(opened, written, name):
    file = opened(b"\xef\xbb\xbf \n" + written(ROWS).encode() + b"\n", name)
    scanned = list(file.scan())
    assert [row for _, _, row in scanned] == ROWS
    assert [file.read(position) for _, position, _ in reversed(scanned)] == ROWS[::-1]
    assert file.first_columns() == {"a", "text", "inner"}


def test_a_row_is_named_by_the_line_on_which_it_begins_and_a_bad_one_is_told_alone(opened):
    found = [
        (line, row if isinstance(row, dict) else str(row))
        for line, _, row in opened(b'[{"a": 1},\n{"a": NaN}, {"a": 2},\n\n {"a": 3}]').scan()
    ]
    assert found == [(1, {"a": 1}), (2, "not JSON: NaN is not a JSON value"), (3, {"a": 2}), (4, {"a": 3})]


def test_no_two_rows_have_the_same_name_and_in_a_list_on_one_line_it_is_their_place(opened):
    assert [line for line, _, _ in opened(json.dumps(ROWS).encode()).scan()] == [i + 1 for i in range(len(ROWS))]


def test_an_object_larger_than_the_bound_is_a_bad_row(opened, monkeypatch):
    monkeypatch.setattr(json_list, "MAX_ROW_BYTES", 20)
    first, second = (row for _, _, row in opened(json.dumps([{"a": "x" * 100}, {"a": 1}]).encode()).scan())
    assert str(first) == "an object of 109 bytes; accepted: at most 20"
    assert second == {"a": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "f.json:1: not a JSON object; accepted: one list of JSON objects, nothing else"),
        ('[{"a": 1},\n', "f.json:2: the list is never closed"),
        ('[{"a": 1}', "f.json:1: no comma or end of the list behind this JSON object"),
        ('[{"a": 1}\n{"a": 2}]', "f.json:1: no comma or end"),
        ('[{"a": 1},\n{"a": "2', "f.json:2: a JSON object that is never closed"),
        ('[{"a": 1}] {"a": 2}', "f.json:1: something follows the list"),
        pytest.param('[{"a": "' + '\\"' * 500_000, "f.json:1: a JSON object that is never closed", id="a text of 1 MB"),
    ],
)
def test_what_is_no_list_of_objects_is_refused_with_its_line(opened, content, said):
    with pytest.raises(DataError, match=f"^{said}"):
        list(opened(content.encode()).scan())


def test_rows_are_copied_as_json_lines(opened, tmp_path):
    file = opened(json.dumps(ROWS, indent=1).encode())
    with file.writer(tmp_path / "copy.jsonl") as write:
        write(file, [position for _, position, _ in file.scan()][1:3])
    assert list(map(json.loads, (tmp_path / "copy.jsonl").read_text().splitlines())) == ROWS[1:3]


def test_rows_of_a_list_are_a_file_of_rows(opened):
    file = opened(json.dumps([{"prompt": "?", "answer": str(i)} for i in range(3)], indent=1).encode())
    rules = RowRules(frozenset({"exact"}), lambda text: None, "exact")

    def refuse(where: str, why: BadRow) -> None:
        raise AssertionError(f"{where}: {why}")

    assert len(index_rows([Source(file, "native")], Settings(rules).rules, refuse)) == 3
