"""Rows of published sets become rows of ours."""

import pytest

from copd.errors import BadRow, DataError
from copd.sets.converting import LeftOut, Shape, answer_in, verifier_of, without_proof
from copd.sets.image import mmfinereason, zerobench
from copd.sets.overlap import Overlap
from copd.sets.published import SETS, published, shape_in
from copd.sets.text import polaris, problem
from copd.sets.video import onethinker, video_r1, videochat_r1


@pytest.mark.parametrize(
    ("answer", "verifier"),
    [
        ("B", "choice"),
        ("(c)", "choice"),
        ("12", "math"),
        ("\\frac{1}{2}", "math"),
        ("x = 3 cm", "math"),
        ("No", "exact"),
    ],
)
def test_an_answer_names_the_verifier_that_reads_it(answer, verifier):
    assert verifier_of(answer) == verifier


def test_an_answer_in_words_is_left_out():
    with pytest.raises(LeftOut, match="free text"):
        verifier_of("a red car")


@pytest.mark.parametrize("solution", ["204", "It is \\boxed{204}.", "<answer>204</answer>", 204])
def test_an_answer_is_taken_out_of_its_box_or_tag(solution):
    assert answer_in({"solution": solution}, "answer", "solution") == "204"


def test_a_row_without_an_answer_is_left_out_and_one_with_two_is_bad():
    with pytest.raises(LeftOut, match="no answer"):
        answer_in({"answer": None, "solution": ""}, "answer", "solution")
    with pytest.raises(BadRow, match=r"2 .*boxed"):
        answer_in({"answer": "\\boxed{1} or \\boxed{2}"}, "answer")


@pytest.mark.parametrize(
    "prompt", ["Prove that 2 is even.", "Let n be odd. Show that n^2 is odd.", "Is n odd? If so: show it."]
)
def test_a_problem_that_ends_in_a_request_for_a_proof_is_left_out(prompt):
    with pytest.raises(LeftOut, match="proof"):
        without_proof(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "Show that n is odd. What is n?",
        "Show that n is odd. Find n.",
        "The proof of x is 3. Find x.",
        "Improve it: 3+4",
        pytest.param(": show" * 100_000 + "?", id="half a million signs"),
    ],
)
def test_a_problem_that_asks_for_more_than_a_proof_is_kept(prompt):
    assert without_proof(prompt) == prompt


def test_polaris_keeps_no_pass_rate_of_another_model():
    row = polaris({"problem": "1+1?", "answer": "2", "difficulty": "3/8"})
    assert row == {"prompt": "1+1?", "answer": "2", "verifier": "math"}


@pytest.mark.parametrize(
    "raw",
    [
        {"problem": "1+1?", "answer": "2"},
        {"ID": "2024-I-1", "Problem": "1+1?", "Solution": "Two, \\boxed{2}, of course.", "Answer": 2},
        {"problem": "1+1?", "solution": "\\boxed{2}"},
        {"question": "1+1?", "answer": "2"},
    ],
)
def test_every_usual_copy_of_a_test_gives_the_same_problem(raw):
    shape = shape_in(SETS["aime24"].shapes, raw.keys(), "x")
    assert shape.convert(raw) == problem(raw) == {"prompt": "1+1?", "answer": "2", "verifier": "math"}


def test_a_question_of_yes_or_no_says_which_words_are_meant():
    row = mmfinereason({"question": "<image>Is it red?", "answer": "yes.", "image": b"..."})
    assert row == {
        "prompt": "<image>Is it red?\nAnswer Yes or No.",
        "images": [b"..."],
        "answer": "Yes",
        "verifier": "exact",
    }


def test_a_word_of_a_test_is_compared_as_it_is_written():
    row = zerobench({"question_text": "Who?", "question_images_decoded": [b"."], "question_answer": "Ann"})
    assert (row["answer"], row["verifier"]) == ("Ann", "exact")


VIDEO = {"problem": "How?", "data_type": "video", "options": ["A. up", "B. down"], "problem_type": "multiple choice"}


def test_the_three_sets_of_videos_give_the_same_row():
    rows = [
        onethinker({**VIDEO, "videos": ["a.mp4"], "answer": "<answer>B</answer>"}),
        video_r1({**VIDEO, "path": "a.mp4", "solution": "<answer>B</answer>"}),
        videochat_r1({"question": "How?", "video": "a.mp4", "options": ["A. up", "B. down"], "answer": "(B)"}),
    ]
    wanted = {
        "prompt": "How?",
        "videos": ["a.mp4"],
        "options": ["A. up", "B. down"],
        "answer": "B",
        "verifier": "choice",
    }
    assert rows == [wanted] * 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"data_type": "image"}, "data_type is 'image'"), ({"problem_type": "tracking"}, "problem_type is 'tracking'")],
)
def test_rows_of_other_kinds_are_left_out_by_kind(changes, why):
    with pytest.raises(LeftOut, match=why):
        onethinker({**VIDEO, "videos": ["a.mp4"], "answer": "<answer>B</answer>", **changes})


def test_a_file_of_no_known_shape_is_refused_with_the_columns_of_each_shape():
    with pytest.raises(
        DataError, match=r"x\.json: no shape fits the columns a: Polaris has answer, difficulty, problem"
    ):
        shape_in(SETS["polaris"].shapes, {"a"}, "x.json")


def test_of_several_shapes_that_fit_the_one_with_most_columns_is_taken():
    shapes = [Shape("few", frozenset("a"), dict), Shape("many", frozenset("ab"), dict)]
    assert shape_in(shapes, {"a", "b", "c"}, "x").name == "many"


def test_an_unknown_set_is_refused_with_the_names_of_all():
    with pytest.raises(DataError, match="polaris_2: no set of this name; accepted: polaris, mmfinereason, video40k"):
        published("polaris_2")


TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen"


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        (f"Before: {TEXT.upper()}, after!", True),
        (TEXT.replace("seven", "7"), False),
        ("What is 1+2?", True),
        ("what  is 1+2?", True),
        ("What is 1-2?", False),
        ("", False),
    ],
)
def test_a_question_repeats_another_if_they_share_thirteen_words_or_are_the_same(text, repeats):
    overlap = Overlap()
    overlap.add(TEXT)
    overlap.add("What is 1+2?")
    assert overlap.has_part_of(text) == repeats
