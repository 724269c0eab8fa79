"""The reference answer of a row, and what of a row's media is read."""

import base64
import io
import json
from fractions import Fraction
from functools import partial

import pytest
from PIL import Image

from copd.errors import BadRow
from copd.rewards.answers import final_answer
from copd.rewards.verifiers import misread
from copd.rows.answers import within
from copd.rows.formats import RowRules, read_row
from copd.rows.sources import DECODER

BOXED = partial(final_answer, finished=True)
RULES = RowRules(frozenset({"choice", "exact", "mine"}), BOXED, "exact", misread=misread, own=frozenset({"mine"}))


@pytest.mark.parametrize(
    ("solution", "answer", "is_marked"),
    [
        ("<think> 3 and 4 make 7 </think> <answer> 7 </answer>", " 7 ", True),
        ("The answer is <answer>B</answer>", "B", True),
        ("<think>\n2 and 4\n</think>\n<answer>6</answer>", "6", True),
        ("<think>one \\boxed{8}</think>\nso \\boxed{7}", "7", True),
        ("<answer>\\boxed{7}</answer>", "7", True),
        ("<think>why not</think>7", "7", False),
        ("7", "7", False),
        (7, 7, False),
    ],
)
def test_the_answer_of_a_solution_stands_behind_its_thoughts_in_its_tag_or_box(solution, answer, is_marked):
    assert within(solution, BOXED) == (answer, is_marked)


@pytest.mark.parametrize(
    "written",
    ["3.0000000000000001", "1234567890123456789.25", "1e-400", "0.30000000000000004", "0.1", "-2.50", "0.0", "6.02e23"],
)
def test_an_answer_that_is_a_number_of_json_keeps_all_its_digits(written):
    row = DECODER.decode(f'{{"prompt": "q", "answer": {written}}}')
    problem = read_row(row, "native", RULES)
    assert Fraction(problem.answer) == Fraction(written)
    assert json.loads(json.dumps(row)) == json.loads(f'{{"prompt": "q", "answer": {written}}}')


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("<answer>1</answer> or <answer>2</answer>", "no single answer: 2 <answer> or </answer> in it"),
        ("<answer>1", "no single answer: <answer> and </answer> do not stand around it"),
        ("1</answer><answer>", "do not stand around it"),
        ("<answer>" * 200_000, "no single answer: 200000 <answer>"),
        ("<think>3 and 4", "no single answer: its thoughts are never closed"),
        ("\\boxed{1} or \\boxed{2}", r"no single answer: 2 \\boxed"),
    ],
)
def test_a_solution_with_several_answers_or_open_thoughts_is_refused(solution, reason):
    with pytest.raises(BadRow, match=reason):
        within(solution, BOXED)


@pytest.mark.parametrize("answer", ["\\boxed{7}", "<answer>7</answer>", "<think>so</think> 7"])
def test_an_answer_that_no_final_answer_can_equal_is_refused_unless_a_verifier_of_the_user_reads_it(answer):
    with pytest.raises(BadRow, match="a final answer never holds"):
        read_row({"prompt": "?", "answer": answer}, "native", RULES)
    assert read_row({"prompt": "?", "answer": answer, "verifier": "mine"}, "native", RULES).answer == answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("7<|im_end|>", r"a response cannot hold the control token '<\|im_end\|>'"),
        ("\ufeff7", r"it holds the invisible character U\+FEFF"),
        ("7\u200b", r"it holds the invisible character U\+200B"),
        ("7\0", r"it holds the invisible character U\+0000"),
        ("<ANSWER>7</ANSWER>", "a final answer never holds <ANSWER>; give what stands inside or behind it"),
        ("<reasoning>3+4</reasoning>7", "a final answer never holds <reasoning>"),
        ("Answer: 7", "a final answer does not begin with 'Answer:'; give what stands behind it"),
        ("**Final answer: 7**", "does not begin with"),
        ("The answer is 7.", "does not begin with 'The answer is'"),
        ("Because it is so, the answer is 7.", "does not hold 'the answer is'; give what stands behind it"),
        ("3+4 is 7.\n#### 7\nor\n#### 8", "a final answer does not hold ####; give what stands behind it"),
    ],
)
def test_an_answer_that_no_final_answer_is_like_is_refused_and_noted_where_the_verifier_is_unknown(answer, reason):
    with pytest.raises(BadRow, match=reason):
        read_row({"prompt": "?", "answer": answer}, "native", RULES)
    assert read_row({"prompt": "?", "answer": answer, "verifier": "mine"}, "native", RULES).notes == ()
    unnamed = read_row({"prompt": "?", "answer": answer}, "native", RowRules(frozenset({"exact"}), BOXED, "(none)"))
    (note,) = unnamed.notes
    assert note.startswith("verifiers of copd refuse the answer: ")


@pytest.mark.parametrize(
    "answer",
    [
        "answerable",
        "Answers: none",
        "a < b > c",
        "\u0645\u06cc\u200c\u0631\u0648\u0645",
        "\U0001f469\u200d\U0001f4bb",
        "#4",
    ],
)
def test_an_answer_of_unusual_texts_is_one(answer):
    assert read_row({"prompt": "?", "answer": answer}, "native", RULES).answer == answer


def test_a_verifier_of_the_user_reads_mappings_and_lists_as_json_and_ours_do_not():
    truth = {"boxes": [[1, 2]], "label": "é"}
    row = {"prompt": "?", "reward_model": {"ground_truth": truth}, "verifier": "mine"}
    assert json.loads(read_row(row, "verl", RULES).answer) == truth
    with pytest.raises(
        BadRow, match=r"the answer is a mapping; accepted: a text or a number \(only a verifier of your"
    ):
        read_row({**row, "verifier": "exact"}, "verl", RULES)
    with pytest.raises(BadRow, match="the answer is a list that JSON cannot hold"):
        read_row({"prompt": "?", "answer": [float("nan")], "verifier": "mine"}, "native", RULES)


def picture(kind: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (16, 16)).save(held, kind)
    return held.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_in_base64_or_a_data_url_is_bytes_wherever_a_path_may_stand(kind):
    text = base64.b64encode(picture(kind)).decode()
    row = {"prompt": "?", "answer": "1", "images": [text, f"data:image/{kind.lower()};base64,{text}", {"bytes": text}]}
    row["images"].append("\n".join(text[i : i + 76] for i in range(0, len(text), 76)))
    assert read_row(row, "native", RULES).images == (picture(kind),) * 4
    assert read_row({**row, "images": [f"base64,{text}"]}, "native", RULES).images == (picture(kind),)
    with pytest.raises(BadRow, match=r"images\[0\] is not base64"):
        read_row({**row, "images": [f"data:image/png;base64,{text[:-3]}?"]}, "native", RULES)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_picture_of_another_format_in_base64_is_bytes_and_no_path(kind):
    row = {"prompt": "?", "answer": "1", "images": [base64.b64encode(picture(kind)).decode()]}
    assert read_row(row, "native", RULES).images == (picture(kind),)


def test_frames_and_rate_of_a_mapping_are_read_and_bounds_in_it_are_noted():
    video = {"type": "video", "video": ["f0.png", "f1.png"], "fps": 4.0, "max_pixels": 9}
    row = read_row({"prompt": "?", "answer": "1", "videos": [video]}, "native", RULES)
    assert (row.videos, row.fps) == ((("f0.png", "f1.png"),), 4.0)
    assert row.notes == ("max_pixels beside videos is not read; media in the recipe has bounds for all",)
    film = read_row({"prompt": "?", "answer": "1", "videos": [{"video": "a.mp4", "fps": 1.0}]}, "native", RULES)
    assert film.notes == ("fps beside a video file is not read; media.fps in the recipe samples it",)
    image = read_row({"prompt": "?", "answer": "1", "images": [{"image": "a.png", "max_pixels": 9}]}, "native", RULES)
    assert image.notes == ("max_pixels beside images is not read; media in the recipe has bounds for all",)
    with pytest.raises(BadRow, match="its videos have different fps"):
        read_row({"prompt": "?", "answer": "1", "videos": [video, {**video, "fps": 2.0}]}, "native", RULES)
