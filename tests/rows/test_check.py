"""The check tells every bad row by file, line and reason, and counts the others."""

import json
from functools import partial

import pytest
from PIL import Image

from copd.rewards.answers import final_answer
from copd.rows.check import UNNAMED, check_rows
from copd.rows.formats import RowRules
from copd.rows.opening import Settings, open_files

SETTINGS = Settings(RowRules(frozenset({"exact", "integer"}), partial(final_answer, finished=True), verifier=UNNAMED))


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Report and lines of a file of these rows, given relative to the folder it is in."""
    monkeypatch.chdir(tmp_path)

    def check(rows, **options):
        (tmp_path / "f.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        said = []
        options = {"media": True} | options
        report = check_rows(open_files(["f.jsonl"], "train", SETTINGS), SETTINGS, say=said.append, **options)
        return report, said

    return check


def row(**columns):
    return {"prompt": "?", "answer": "1", **columns}


def test_every_bad_row_is_told_and_the_others_are_counted(checked, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    rows = [row(id=1), "{", row(images=["a.png"]), row(verifier="integer"), row(answer=None), row(id=1)]
    report, said = checked([*rows, row(images=["b.png"]), row(videos=[["a.png"]])])
    assert said == [
        "f.jsonl:2: not JSON: Expecting property name enclosed in double quotes at column 2; a row is one line",
        "f.jsonl:5: answer is null",
        "f.jsonl:7: image 'b.png': empty, 0 bytes",
        "f.jsonl:6: has the id of f.jsonl:1",
    ]
    assert (report.rows, report.bad) == (8, 4)
    assert report.kinds == {"text": 3, "image": 1, "video": 1}
    assert report.verifiers == {UNNAMED: 4, "integer": 1}
    assert report.summary() == (
        "f.jsonl (native): 8 rows, 4 bad; kinds: image 1, text 3, video 1; verifiers: (none named) 4, integer 1"
    )


def test_every_bad_row_of_many_is_told(checked):
    report, said = checked([row(), *["{"] * 250])
    assert report.bad == 250
    assert [line.split(": ")[0] for line in said] == [f"f.jsonl:{n}" for n in range(2, 252)]


def test_a_long_list_is_cut_on_request_but_counted(checked):
    report, said = checked([row(), *["{"] * 50], most=3)
    assert report.bad == 50
    assert len(said) == 4
    assert said[-1] == "and 47 more"


def test_media_are_decoded_unless_told_otherwise_but_always_looked_for(checked, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = [row(), row(images=["b.png"]), row(images=["none.png"])]
    assert checked(rows)[0].bad == 2
    report, said = checked(rows, media=False)
    assert report.bad == 1
    assert "image 'none.png': not found" in said[0]


def test_the_first_sound_row_is_shown_as_a_model_is_asked_it_with_a_right_response_and_notes_are_counted(checked):
    rows = ["{", row(prompt="Which?\nOne.", answer="B", options=["red", "blue"]), row(options=["1"]), row()]
    report, _ = checked(rows, answer_form="tag")
    assert report.lines() == [
        "f.jsonl (native): 4 rows, 1 bad; kinds: text 3; verifiers: (none named) 3",
        "  2 rows: the column options is put below the question, which does not show it",
        "  the first sound row, as a model is asked it:",
        "    user: Which?",
        "    One.",
        "    A. red",
        "    B. blue",
        "  a right response (verifier (none named)) ends like <answer>B</answer>",
    ]


def test_without_a_sound_row_none_is_shown(checked):
    assert len(checked([row(answer=None)])[0].lines()) == 1
