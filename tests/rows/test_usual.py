"""Rows under other names of columns: those that a recipe maps, and the names that data sets use."""

from functools import partial

import pytest

from copd.errors import BadRow, DataError
from copd.rewards.answers import final_answer
from copd.rows.formats import REQUIRED, RowRules, names_in, read_row
from copd.types import Medium, Message

RULES = RowRules(frozenset({"exact", "choice", "mine"}), partial(final_answer, finished=True), "exact")
PNG = {"bytes": b"\x89PNG", "path": "a.png"}
ASKED = {"role": "user", "content": "1+1?"}


def read(raw, names=None, format_name="auto"):
    return read_row(raw, *_with_rules(*names_in(raw.keys(), format_name, names or {}, "f.jsonl")))


def _with_rules(format_name, names):
    return format_name, RULES, names


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ({"question": "1+1?", "answer": "2"}, "2"),
        ({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "2"),
        ({"question": "1+1?", "solution": "so \\boxed{2}"}, "2"),
        ({"problem": "1+1?", "solution": "<answer>2</answer>"}, "2"),
        ({"problem": "1+1?", "solution": "one and one\n#### 2"}, "2"),
        ({"messages": [ASKED], "answer": 2}, "2"),
        ({"messages": [ASKED, {"role": "assistant", "content": "so \\boxed{2}"}]}, "2"),
        ({"question": "1+1?", "reward_model": {"ground_truth": "2"}}, "2"),
    ],
)
def test_the_usual_names_of_question_and_answer_are_understood(raw, answer):
    row = read(raw)
    assert (row.messages, row.answer, row.notes) == ((Message("user", ("1+1?",)),), answer, ())


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_that_fits_a_format_is_read_by_it_alone(name):
    assert names_in({*REQUIRED[name], "question", "messages"}, "auto", {}, "f.jsonl") == (name, {})


def test_a_recipe_names_the_columns_of_a_file():
    raw = {"ask": "this?", "label": "B", "picture": "a.png", "key": 7, "prompt": "old"}
    row = read(raw, {"prompt": "ask", "answer": "label", "images": "picture", "id": "key"})
    assert (row.messages, row.answer, row.images, row.id) == (
        (Message("user", (Medium.IMAGE, "this?")),),
        "B",
        ("a.png",),
        "7",
    )


def test_a_column_that_the_recipe_names_and_the_file_lacks_is_told_with_those_that_are_there():
    with pytest.raises(DataError, match=r"^f.jsonl: columns.prompt is 'ask', which no column has; there is answer, q$"):
        names_in({"q", "answer"}, "auto", {"prompt": "ask"}, "f.jsonl")
    with pytest.raises(BadRow, match=r"^ask is missing; columns are label$"):
        read_row({"label": "2"}, "native", RULES, {"prompt": "ask", "answer": "label"})


def test_numbered_pictures_stand_where_the_prompt_says():
    raw = {"question": "Is <image 2> in <image 1>, as <image 2>?", "answer": "B", "image_1": PNG, "image_2": "b.png"}
    row = read({**raw, "image_3": None, "options": "['yes', \"no, it isn't\"]"})
    assert row.images == ("b.png", b"\x89PNG", "b.png")
    (message,) = row.messages
    assert message.items[:4] == ("Is ", Medium.IMAGE, " in ", Medium.IMAGE)
    assert message.items[-1].endswith("?\nA. yes\nB. no, it isn't")


def test_numbered_pictures_without_a_place_stand_first_and_one_among_others_that_have_one_is_told():
    raw = {"question": "Which?", "answer": "B", "image_1": "a.png", "image_2": "b.png"}
    assert read(raw).messages == (Message("user", (Medium.IMAGE, Medium.IMAGE, "Which?")),)
    row = read({**raw, "question": "<image 2>?"})
    assert (row.images, row.notes) == (("b.png",), ("image_1 has no place in the prompt, and is not shown",))
    with pytest.raises(BadRow, match=r"^<image 3> in the prompt, but the row has no image_3$"):
        read({**raw, "question": "<image 3>?"})
    with pytest.raises(BadRow, match=r"^200 places of images; accepted: at most 128$"):
        read({**raw, "question": "<image 1>" * 200 + "?"})


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"path": "a.mp4", "data_type": "video"}, "video"),
        ({"path": "a.png", "data_type": "image"}, "image"),
        ({"path": "a.png", "data_type": "text"}, "text"),
        ({"video": "a.mp4"}, "video"),
        ({"image": ["a.png"]}, "image"),
    ],
)
def test_a_picture_or_video_in_a_column_of_its_own_is_shown(columns, kind):
    assert read({"problem": "?", "solution": "<answer>B</answer>", **columns}).kind == kind


def test_frames_in_a_column_of_their_own_are_one_video():
    assert read({"prompt": "?", "answer": "B", "video": ["a.png", "b.png"]}).videos == (("a.png", "b.png"),)


@pytest.mark.parametrize(
    "spelled", ["['1', __import__('os')]", "[1, 2]", "('a', 'b')", "A or B", "['a'" + ", 'a'" * 9999 + "]"]
)
def test_what_only_looks_like_a_list_of_choices_stays_a_text(spelled):
    assert (
        "the column options is not read: it is no list of choices"
        in read({"prompt": "?", "answer": "7", "options": spelled}).notes
    )


def test_a_list_that_cannot_be_spelled_is_refused():
    with pytest.raises(BadRow, match="looks like a list of texts and is none"):
        read({"prompt": "?", "answer": "B", "options": r"['\x']"})


@pytest.mark.parametrize("messages", [[ASKED], [], "?", [3]])
def test_messages_without_an_answer_are_refused(messages):
    with pytest.raises(BadRow, match=r"^no answer: messages, .*, do not end with one of the assistant$"):
        read({"messages": messages})


def test_a_long_solution_is_read_for_its_hashes_in_one_go():
    assert read({"prompt": "?", "answer": "1+1\n#### 2" + " " * 500_000}).answer == "2"
    assert read({"prompt": "?", "answer": "#### x" + " " * 500_000 + "y"}).answer.endswith(" y")


def test_hashes_count_only_once_and_in_the_last_line():
    assert read({"prompt": "?", "answer": "#### 1,234 "}).answer == "1,234"
    for answer in ("#### 1\n#### 2", "#### 1\nso it is", "a #### 1"):
        with pytest.raises(BadRow, match="does not hold ####"):
            read({"prompt": "?", "answer": answer})
