"""What of a row goes with its problem."""

import math
from datetime import date

from copd.tasks import columns
from copd.tasks.columns import columns_of


def test_columns_are_kept_as_they_are_but_for_media():
    row = {"prompt": [{"role": "user", "content": "?"}], "extra_info": {"index": 1}, "level": None, "share": math.inf}
    assert columns_of({**row, "image": "a.png", "images": ["a.png"], "video": "a.mp4", "videos": []}) == row


def test_what_json_cannot_say_is_left_out():
    assert columns_of({"blob": b"x", "day": date(2020, 1, 1), "deep": {"blob": [b"x"]}, "ours": 1}) == {"ours": 1}


def test_no_row_carries_more_than_a_bounded_size(monkeypatch):
    monkeypatch.setattr(columns, "MAX_COLUMNS_BYTES", 40)
    assert columns_of({"a": "x" * 20, "b": "x" * 20, "c": 1}) == {"a": "x" * 20, "c": 1}
