"""What a file holds is counted in one pass, and its splits are those that a recipe would cut."""

import json

import pytest

from copd.errors import DataError
from copd.rows.formats import RowRules
from copd.rows.opening import Settings
from copd.rows.rows import Rows
from copd.rows.survey import survey
from copd.types import Split

RULES = RowRules(frozenset({"exact"}), lambda text: None, verifier="none")
READERS = {"digit": str.isdigit, "any": lambda answer: True}


@pytest.fixture
def surveyed(tmp_path):
    def write(*rows):
        (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return survey(str(tmp_path / "f.jsonl"), Settings(RULES), "none", READERS)

    return write


def test_rows_are_counted_by_what_can_read_their_answers(surveyed):
    rows = [{"prompt": str(i), "answer": answer} for i, answer in enumerate(["1", "2", "x^2", "word", ""])]
    found = surveyed(*rows, {"prompt": "?", "answer": "3", "verifier": "exact", "level": 3})
    assert (found.rows, found.bad, found.unnamed, found.formulas) == (5, 1, 4, 1)
    assert found.readable == {"digit": 2, "any": 4}
    assert found.kinds == {"text": 5}
    assert found.first_bad.endswith("f.jsonl:5: the answer is empty")
    assert list(found.notes.values()) == [1]


def test_the_splits_are_those_that_a_task_cuts(surveyed, tmp_path):
    found = surveyed(*({"prompt": str(i), "answer": "1"} for i in range(200)))
    share, sizes = found.share(10)
    assert share == 0.05
    task = Rows(
        "b",
        {split: ([str(tmp_path / "f.jsonl")] if split is Split.TRAIN else None) for split in Split},
        Settings(RULES),
        shares={Split.VALIDATION: share, Split.TEST: share},
    )
    assert {split: task.size(split) for split in Split} == sizes


@pytest.mark.parametrize(("count", "share"), [(60, 0.2), (250, 0.16), (1000, 0.1), (10_000, 0.05)])
def test_a_small_file_gives_a_greater_share_to_validation_and_test(surveyed, count, share):
    assert surveyed(*({"prompt": str(i), "answer": "1"} for i in range(count))).share(500)[0] == share


def test_a_file_without_a_sound_row_and_one_that_cannot_be_cut_are_refused(surveyed):
    with pytest.raises(DataError, match=r"no sound row; the first bad one is .*f.jsonl:1: the answer is empty$"):
        surveyed({"prompt": "?", "answer": ""})
    with pytest.raises(DataError, match=r"f.jsonl: 1 sound rows cannot be cut"):
        surveyed({"prompt": "?", "answer": "1"}).share(500)
    few = [{"prompt": str(i % 2), "answer": str(i)} for i in range(50)]
    with pytest.raises(DataError, match=r"f.jsonl: 50 sound rows cannot be cut .* stay together; 2 differ$"):
        surveyed(*few).share(500)


def test_a_parquet_file_of_columns_without_rows_is_refused_without_a_first_bad_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string"), "answer": []}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"f\.parquet: has columns but no row$"):
        survey(str(tmp_path / "f.parquet"), Settings(RULES), "none", READERS)
