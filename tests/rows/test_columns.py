"""What of a row goes with its problem."""

import json
import math
from datetime import date

from copd.rows import columns
from copd.rows.columns import columns_of


def kept(row):
    return json.loads(columns_of(row))


def test_columns_are_kept_as_they_are_but_for_media():
    row = {"prompt": [{"role": "user", "content": "?"}], "extra_info": {"index": 1}, "level": None, "share": math.inf}
    assert kept({**row, "image": "a.png", "images": ["a.png"], "video": "a.mp4", "videos": []}) == row


def test_what_json_cannot_say_is_left_out():
    assert kept({"blob": b"x", "day": date(2020, 1, 1), "deep": {"blob": [b"x"]}, "ours": 1}) == {"ours": 1}


def test_no_row_carries_more_than_a_bounded_size(monkeypatch):
    monkeypatch.setattr(columns, "MAX_COLUMNS_BYTES", 40)
    assert kept({"a": "x" * 20, "b": "x" * 20, "c": 1}) == {"a": "x" * 20, "c": 1}


def test_a_row_that_is_nested_as_deeply_as_it_can_be_read_is_no_error():
    deep = json.loads('{"deep": ' + "[" * 900 + "]" * 900 + ', "ours": 1}')
    assert kept(deep)["ours"] == 1


def test_a_row_nested_deeper_than_json_can_be_written_loses_that_column_only():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert kept({"deep": deep, "ours": 1}) == {"ours": 1}
