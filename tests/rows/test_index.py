"""The index of rows, their split by hash, and ids given twice."""

from functools import partial

import numpy as np
import pytest

from copd.rewards.answers import final_answer
from copd.rows.formats import RowRules, read_row
from copd.rows.index import RowIndex, cut, key_of
from copd.types import Split

RULES = RowRules(frozenset({"exact"}), partial(final_answer, finished=True), verifier="exact")


def row(prompt="?", rules=RULES, **columns):
    return read_row({"prompt": prompt, "answer": "1", **columns}, "native", rules)


def index_of(rows):
    index = RowIndex()
    for line, each in enumerate(rows, 1):
        index.add(0, line, 10 * line, each)
    return index


def test_a_row_set_knows_file_line_and_position_of_its_rows():
    rows = index_of([row(), row(), row()]).rows()
    assert (rows.file_n.tolist(), rows.line_n.tolist(), rows.position_n.tolist()) == ([0] * 3, [1, 2, 3], [10, 20, 30])
    assert len(rows) == 3
    assert len(RowIndex().rows()) == 0


def test_ids_given_twice_are_found_with_the_row_that_had_them_first():
    index = index_of([row(id=name) for name in ("a", "b", "a", "c", "b", "a")] + [row(), row()])
    assert list(index.repeated()) == [(2, 0), (4, 1), (5, 0)]
    assert index.place(4) == (0, 5)
    assert index.rows(without=[2, 4, 5]).line_n.tolist() == [1, 2, 4, 7, 8]


def test_a_number_and_a_text_are_the_same_id():
    assert list(index_of([row(id=1), row(id="1")]).repeated()) == [(1, 0)]


def test_rows_with_an_empty_id_have_none_and_repeat_no_other():
    assert list(index_of([row(id=""), row(id=""), row(id=None)]).repeated()) == []


def test_text_is_assigned_by_what_it_asks_whatever_is_around_it():
    dressed = RowRules(
        RULES.verifiers, RULES.boxed_answer, "exact", "Be brief.", template=lambda prompt, row: f"{prompt} Think."
    )
    assert key_of(row("What is  it?")) == key_of(row("what is\nit?")) == key_of(row("What is it?", dressed, id=7))
    assert key_of(row("What is it?")) != key_of(row("What was it?"))


@pytest.mark.parametrize(
    "media", [{"images": ["a.png"]}, {"images": [{"bytes": "AAAA"}]}, {"videos": ["a.mp4"]}, {"videos": [["a", "b"]]}]
)
def test_rows_with_media_are_assigned_by_what_they_show(media):
    assert key_of(row("What?", **media)) == key_of(row("Who?", **media)) != key_of(row("What?"))
    assert key_of(row(images=["a.png"])) == key_of(row(images=["./x/../a.png"]))
    assert key_of(row(images=["a.png"])) != key_of(row(images=["b.png"]))
    assert key_of(row(images=["a.png", "b.png"])) != key_of(row(images=["a.png"])), "the whole list counts"


def test_the_cut_has_about_the_asked_shares_loses_no_row_and_keeps_the_order():
    rows = index_of([row(f"question {i}") for i in range(5000)]).rows()
    sets = cut(rows, {Split.VALIDATION: 0.1, Split.TEST: 0.25})
    assert {split: len(p) / 5000 for split, p in sets.items()} == {
        Split.TRAIN: pytest.approx(0.65, abs=0.03),
        Split.VALIDATION: pytest.approx(0.1, abs=0.02),
        Split.TEST: pytest.approx(0.25, abs=0.03),
    }
    assert sorted(np.concatenate([p.line_n for p in sets.values()]).tolist()) == list(range(1, 5001))
    assert all((np.diff(p.line_n) > 0).all() for p in sets.values())


def test_a_row_stays_in_its_split_when_others_come_or_go():
    questions = [f"question {i}" for i in range(300)]
    shares = {Split.VALIDATION: 0.2, Split.TEST: 0.2}

    def splits_of(asked):
        sets = cut(index_of([row(question) for question in asked]).rows(), shares)
        return {asked[line - 1]: split for split, rows in sets.items() for line in rows.line_n}

    whole, few = splits_of(questions), splits_of(questions[::-1][:150])
    assert all(whole[question] is split for question, split in few.items())


def test_without_shares_all_rows_train():
    assert len(cut(index_of([row("a"), row("b")]).rows(), {})[Split.TRAIN]) == 2
