"""The final answer: one closed box of a finished response, and nothing else, however hostile the text."""

import time

import pytest

from copd.rewards.answers import final_answer

ANSWERS = [
    (r"\boxed{16}", "16"),
    (r"3 8 5;11,16;\boxed{16}", "16"),
    (r"\boxed{ 16 }", "16"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{{{7}}}", "{{7}}"),
    (r"\boxed{a{b}c{d{e}}} and more }", "a{b}c{d{e}}"),
    (r"\boxed{}", ""),
    (r"\boxed{   }", ""),
    (r"so \boxed{5}, not 6 or {7}", "5"),
    (r"\\boxed{5}", "5"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (
        r"\boxed{\left\{\begin{array}{l}x=1\\y=2\end{array}\right.}",
        r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.",
    ),
    (r"\boxed{1\\}", r"1\\"),
    ("\\boxed{1\n2}", "1\n2"),
    ("\\boxed{7\x00}", "7\x00"),
    ("\\boxed{\ud800}", "\ud800"),
    (r"\boxed{__import__('os').abort()}", "__import__('os').abort()"),
    (r"\boxed{1e999999999}", "1e999999999"),
]

NO_ANSWER = [
    "",
    "16",
    "boxed{16}",
    r"\boxed",
    r"\boxed{",
    r"\boxed{16",
    r"\boxed{{16}",
    r"\boxed 16",
    r"\Boxed{16}",
    r"\fbox{16}",
    r"\boxed{1}\boxed{2}",
    r"\boxed{16} \boxed{16}",
    r"\boxed{\boxed{16}}",
    r"\boxed{16}\boxed{",
    r"\boxed{\boxed{\boxed{16",
    "".join(rf"\boxed{{{n}}}" for n in range(100)),
]


@pytest.mark.parametrize(("response", "answer"), ANSWERS)
def test_the_content_of_the_only_box_is_the_answer(response, answer):
    assert final_answer(response, finished=True) == answer


@pytest.mark.parametrize("response", NO_ANSWER)
def test_no_box_several_boxes_and_open_boxes_answer_nothing(response):
    assert final_answer(response, finished=True) is None


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1} or \boxed{3}</think>\boxed{2}", "2"),
        (r"<think>a</think> \boxed{1} <think>b</think> \boxed{2}", "2"),
        (r"<think></think>\boxed{2}", "2"),
        (r"<think>\boxed{2}", None),
        (r"\boxed{2}<think>", None),
        (r"<think>a</think>\boxed{2}<think>", None),
        (r"<think>\boxed{2}</think>", None),
        (r"\boxed{2}</think>", None),
        (r"<think>a</think>\boxed{1}\boxed{2}", None),
        ("<think>" * 50_000, None),
        ("</think>" * 50_000 + r"\boxed{2}", "2"),
    ],
)
def test_what_is_thought_is_not_the_answer_and_open_thoughts_leave_none(response, answer):
    assert final_answer(response, finished=True) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so <answer> 16 </answer>.", "16"),
        (r"<answer>\boxed{16}</answer>", r"\boxed{16}"),
        ("<think><answer>1</answer></think><answer>2</answer>", "2"),
        ("<answer></answer>", ""),
        (r"\boxed{16}", None),
        ("<answer>16", None),
        ("16</answer>", None),
        ("</answer>16<answer>", None),
        ("<answer>15</answer><answer>16</answer>", None),
        ("<answer><answer>16</answer></answer>", None),
        ("<answer>16</answer></answer>", None),
    ],
)
def test_a_tag_holds_the_answer_only_where_the_recipe_says_so(response, answer):
    assert final_answer(response, finished=True, form="tag") == answer
    assert final_answer("<answer>16</answer>", finished=True) is None
    assert final_answer("<answer>16</answer>", finished=False, form="tag") is None


@pytest.mark.parametrize(("response", "answer"), ANSWERS)
def test_a_truncated_response_answers_nothing(response, answer):
    assert final_answer(response, finished=False) is None


def test_5000_digits_are_text_like_any_other():
    assert final_answer(rf"\boxed{{{'9' * 5000}}}", finished=True) == "9" * 5000


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{" + "{" * 200_000,
        "\\boxed{" + "{" * 100_000 + "}" * 100_000,
        "\\boxed{" * 50_000,
        "\\boxed{" + "9" * 400_000 + "}",
        "\\boxe" * 100_000,
        "\\boxed{1}" + "}" * 400_000,
    ],
    ids=["open", "nested too little", "boxes", "long", "almost", "closing"],
)
def test_a_huge_response_is_searched_in_linear_time(response):
    started = time.process_time()
    final_answer(response, finished=True)
    assert time.process_time() - started < 1.0
