"""Grading of whole batches: what earns a reward, what does not, what is counted, and what a recipe may name."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from copd.errors import RecipeError
from copd.rewards import grading
from copd.rewards.equality import LONGEST
from copd.rewards.grading import Grader, Grades, Response, user_verifiers
from copd.rewards.verifiers import VERIFIERS
from copd.types import Problem

DEADLINE = 2.5
"""Seconds."""
FILE = """
import time

def score(response, answer):
    if "hang" in response:
        with open(__file__ + ".hung", "a") as file:
            file.write("x")
        while True:
            time.sleep(0.01)
    if "crash" in response:
        raise OSError("no\\nluck")
    if "none" in response:
        return None
    return float(response.split()[0])

def trl(completions, answer, **kwargs):
    return [float(answer[0] in completion[0]["content"]) for completion in completions]

def strange(text):
    return 1.0

number = 1
"""

HACKS = [
    pytest.param("", id="empty"),
    pytest.param("16", id="no box"),
    pytest.param(r"\boxed{}", id="empty box"),
    pytest.param(r"\boxed{16", id="never closed"),
    pytest.param(r"\boxed{15} \boxed{16}", id="two boxes"),
    pytest.param(r"\boxed{16} \boxed{16}", id="the same box twice"),
    pytest.param(r"\boxed{\boxed{16}}", id="a box in a box"),
    pytest.param(r"\boxed{14, 15, 16, 17}", id="all options in one box"),
    pytest.param("".join(rf"\boxed{{{n}}}" for n in range(40)), id="all options boxed"),
    pytest.param(r"\boxed{{16}}", id="nested braces"),
    pytest.param(r"\boxed{8+8}", id="to be computed"),
    pytest.param(r"\boxed{9**9**9}", id="a tower of powers"),
    pytest.param(r"\boxed{" + "9" * 5000 + "}", id="5000 digits"),
    pytest.param(r"\boxed{" + "0" * 5000 + "16}", id="5000 zeros before the answer"),
    pytest.param(r"\boxed{1e999999999}", id="a huge exponent"),
    pytest.param(r"\boxed{" + "(" * 5000 + "16" + ")" * 5000 + "}", id="nested parentheses"),
    pytest.param("\\boxed{16\x00}", id="NUL"),
    pytest.param("\\boxed{\ud83016}", id="a lone surrogate"),
    pytest.param("\\boxed{" * 100_000, id="boxes without end"),
    pytest.param("\\boxed{" + "{" * 500_000, id="braces without end"),
]


MATH_HACKS = [
    *(r"\boxed{17}", r"\boxed{14, 15, 16, 17}", r"\boxed{15 \text{ or } 16}", r"\boxed{\{15, 16\}}", r"\boxed{x}"),
    *("16", "", r"\boxed{}", r"\boxed{16", r"\boxed{16}\boxed{16}", r"<think>\boxed{16}", r"<think>\boxed{16}</think>"),
    *(r"\boxed{1e999999999}", r"\boxed{__import__('os').abort()}", "\\boxed{16\x00\ud800}", "\\boxed{" * 10_000),
    *("\\boxed{" + text * 5000 + "}" for text in ("9", "(", "{1}", "\\frac", "x+")),
    *(r"\boxed{9^{9^{9^{9}}}}", r"\boxed{9**9**9}", r"\boxed{10^{10^{10}}!}", r"\boxed{\sum_{n=1}^{10^{9}} n^{n}}"),
    *("\\boxed{" + "(" * 450 + "17" + ")" * 450 + "}", r"\boxed{\int_0^1 e^{-x^{x^{x}}} dx}"),
]
"""To a problem whose answer is 16."""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("user") / "rewards.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def grader(path, said):
    verifiers = {"mine": f"{path}:score", "trl": f"{path}:trl"}
    with Grader(verifiers, deadline_seconds=DEADLINE, memory_gib=1.0, warn=said.append) as grader:
        yield grader


def problem(answer: str = "16", verifier: str = "integer", name: str = "text/train/0/0") -> Problem:
    return Problem(name, "text", "sum: 8 8", answer, verifier)


def response(text: str, finished: bool = True) -> Response:
    return Response(text, torch.tensor([1, 2]), finished)


def grade(grader, verifier: str, *texts: str, answer: str = "16", finished: bool = True) -> Grades:
    return grader.grade([problem(answer, verifier)] * len(texts), [response(text, finished) for text in texts])


@pytest.mark.parametrize("verifier", ["integer", "number", "exact", "math"])
@pytest.mark.parametrize("text", [r"\boxed{16}", r"8 8;16;\boxed{16}", r"\boxed{ 16 }", r"<think>8</think>\boxed{16}"])
def test_one_right_box_in_a_finished_response_earns_one(text, verifier):
    assert grade(Grader(), verifier, text) == Grades([1.0], [True], 0)


@pytest.mark.parametrize("text", [r"\boxed{15}", r"\boxed{-16}", r"8 8;16;\boxed{8}"])
def test_a_wrong_box_earns_nothing(text):
    assert grade(Grader(), "integer", text) == Grades([0.0], [False], 0)


@pytest.mark.parametrize("verifier", ["integer", "math", "mine"])
@pytest.mark.parametrize("text", [r"\boxed{16}", r"8 8;16;\boxed{16}", "1.0"])
def test_a_right_but_unfinished_response_earns_nothing(grader, text, verifier):
    assert grade(grader, verifier, text, finished=False) == Grades([0.0], [False], 0)


@pytest.mark.parametrize("verifier", sorted(VERIFIERS))
@pytest.mark.parametrize("text", HACKS)
def test_hacks_earn_nothing_and_take_no_time(text, verifier):
    started = time.process_time()
    assert grade(Grader(), verifier, text) == Grades([0.0], [False], 0)
    assert time.process_time() - started < 1.0


def test_code_in_a_response_is_not_run(grader, tmp_path):
    witness = tmp_path / "witness"
    code = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    for verifier in (*VERIFIERS, "math"):
        assert grade(grader, verifier, rf"\boxed{{{code}}}", code).rewards == [0.0, 0.0]
    assert not witness.exists()


def test_mathematical_hacks_earn_nothing_and_right_answers_beside_them_all(grader):
    texts = [text for hack in MATH_HACKS for text in (hack, r"\boxed{\sqrt{256}}")]
    grades = grade(grader, "math", *texts)
    assert grades.rewards[::2] == [0.0] * len(MATH_HACKS)
    assert grades.rewards[1::2] == [1.0] * len(MATH_HACKS)
    assert 1 <= grades.failures <= 8


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("16", "16", True),
        ("1/2", "0.5", True),
        ("0.333", "1/3", False),
        ("50%", "0.5", True),
        ("x" * LONGEST, "x" * LONGEST, True),
        ("x+" * LONGEST + "x", "x", False),
    ],
)
def test_equal_texts_plain_numbers_and_huge_answers_need_no_process(answer, reference, right):
    grader = Grader()
    assert grade(grader, "math", rf"\boxed{{{answer}}}", answer=reference).correct == [right]
    assert grader._pool._running is None


SHOWN = "sum: 8 8\nWrite \\boxed{16}, or <answer>16</answer>.\n"


@pytest.mark.parametrize("form", ["boxed", "tag"])
@pytest.mark.parametrize("verifier", ["integer", "math"])
def test_an_answer_that_stands_in_the_prompt_earns_nothing_unsaid_or_echoed(form, verifier):
    shown = replace(problem(verifier=verifier), prompt=SHOWN)
    own = {"boxed": r"\boxed{16}", "tag": "<answer>16</answer>"}[form]
    texts = ["", "as above", SHOWN, SHOWN.strip(), f"<think>8 8</think>{SHOWN}", f"{SHOWN}Yes.", SHOWN + own]
    with Grader(answer_form=form, format_weight=0.5) as grader:
        grades = grader.grade([shown] * (len(texts) + 2), [response(text) for text in (*texts, own, f"16: {own}")])
    assert grades == Grades([*[0.0] * len(texts), 1.0, 1.0], [*[False] * len(texts), True, True], 0)


def test_a_user_s_function_sees_the_whole_response_and_may_give_any_number(grader):
    assert grade(grader, "mine", "0.25 x", "1 y", "-3", "2.5 <think>") == Grades(
        [0.25, 1.0, -3.0, 2.5], [False, True, False, True], 0
    )
    assert grade(grader, "trl", "16", "<think>16", "17") == Grades([1.0, 1.0, 0.0], [True, True, False], 0)


def test_failures_earn_nothing_are_counted_and_told_of_once_with_their_number_problem_and_reason(grader, said):
    said.clear()
    grader._warned.clear()
    texts = ["1.0", "1.0 crash", "none", "no number", "0.5", "nan", "1e300", "1.0 hang"]
    assert grade(grader, "mine", *texts) == Grades([1.0, 0, 0, 0, 0.5, 0, 0, 0], [True, *[False] * 7], 6)
    (warning,) = said
    first = "first on one to problem 'text/train/0/0': OSError: no luck; such responses earn 0"
    assert warning.startswith(f"verifier 'mine' failed on 6 of 8 responses, {first}")
    assert grade(grader, "mine", "none", "0.5").failures == 1
    assert len(said) == 1


def test_a_verifier_that_fails_on_all_responses_is_told_of_once_more(grader, said):
    said.clear()
    grader._warned.clear()
    for texts in (["none", "0.5"], ["none", "none"], ["none"]):
        grade(grader, "mine", *texts)
    assert [warning.partition(" responses")[0] for warning in said] == [
        "verifier 'mine' failed on 1 of 2",
        "verifier 'mine' failed on 2 of 2",
    ]


def test_equal_responses_are_called_once(grader, path):
    counted = Path(f"{path}.hung")
    counted.unlink(missing_ok=True)
    started = time.perf_counter()
    assert grade(grader, "mine", *["0 hang"] * 16) == Grades([0.0] * 16, [False] * 16, 16)
    assert time.perf_counter() - started < 8 * DEADLINE
    assert counted.read_text() == "x"


def mixed_batch() -> tuple[list[Problem], list[Response]]:
    rows = [
        *((problem("16", "integer"), response(rf"\boxed{{{n}}}")) for n in (15, 16)),
        *(
            (problem(r"\sqrt{2}", "math"), response(rf"\boxed{{{text}}}"))
            for text in (r"2^{1/2}", "2", r"\sqrt{2}", "x")
        ),
        *((problem("1", "mine"), response(text)) for text in ("0.5", "0.75", "crash", "1")),
        *((problem("B", "choice"), response(rf"\boxed{{{text}}}")) for text in ("(B)", "C")),
    ]
    return [row[0] for row in rows], [row[1] for row in rows]


MIXED = Grades(
    [0, 1, 1, 0, 1, 0, 0.5, 0.75, 0, 1, 1, 0],
    [False, True, True, False, True, False, False, False, False, True, True, False],
    1,
)


def test_a_response_is_graded_alike_in_any_order_and_company(grader):
    problems, responses = mixed_batch()
    assert grader.grade(problems, responses) == MIXED
    order = torch.randperm(len(problems), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = grader.grade([problems[i] for i in order], [responses[i] for i in order])
    assert shuffled.rewards == [MIXED.rewards[i] for i in order]
    alone = [grader.grade([p], [r]) for p, r in zip(problems, responses, strict=True)]
    assert [each.rewards[0] for each in alone] == MIXED.rewards
    assert [each.correct[0] for each in alone] == MIXED.correct


def test_grading_from_threads_and_from_a_loop_gives_what_the_main_thread_gives(grader):
    found = []
    threads = [threading.Thread(target=lambda: found.append(grader.grade(*mixed_batch()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def graded() -> Grades:
        return await asyncio.to_thread(grader.grade, *mixed_batch())

    assert [*found, asyncio.run(graded())] == [MIXED] * 4


def test_the_weight_of_the_format_is_earned_by_exactly_one_answer_right_or_wrong(path):
    texts = [r"\boxed{16}", r"\boxed{15}", r"\boxed{15}\boxed{16}", "16", r"\boxed{}", r"\boxed{16"]
    with Grader({"mine": f"{path}:score"}, format_weight=0.25) as grader:
        assert grade(grader, "integer", *texts) == Grades([1.0, 0.25, 0, 0, 0, 0], [True, *[False] * 5], 0)
        assert grade(grader, "integer", *texts, finished=False).rewards == [0.0] * 6
        assert grade(grader, "mine", r"0.5 \boxed{1}", "0.5", r"crash \boxed{1}").rewards == [0.625, 0.375, 0.0]


def test_answers_may_stand_in_tags():
    assert grade(Grader(answer_form="tag"), "integer", "<answer>16</answer>", r"\boxed{16}").rewards == [1.0, 0.0]


def test_an_empty_batch_has_empty_grades():
    assert Grader().grade([], []) == Grades([], [], 0)


@pytest.mark.parametrize("finished", [True, False])
def test_an_unknown_verifier_is_named_with_those_there_are(grader, finished):
    known = "choice, exact, integer, math, mine, number, trl"
    with pytest.raises(RecipeError, match=f"text/train/0/0: unknown verifier 'sympy'; accepted: {known}"):
        grade(grader, "sympy", r"\boxed{16}", finished=finished)


def test_our_own_verifiers_start_no_process():
    grader = Grader()
    for verifier in VERIFIERS:
        grade(grader, verifier, *[r"\boxed{16}"] * 8)
    assert grader._pool._running is None


@pytest.mark.parametrize("name", [*VERIFIERS, "math"])
def test_a_name_of_ours_cannot_be_taken(path, name):
    with pytest.raises(RecipeError, match=f"verifiers.{name}: is a verifier of copd"):
        Grader({name: f"{path}:score"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"verifiers.mine: no file '.*none\.py'; write path/file\.py:NAME"):
        Grader({"mine": f"{tmp_path}/none.py:score"})


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("other", r"rewards\.py has no function or class 'other'"),
        ("number", r"rewards\.py has no function or class 'number'"),
        ("strange", r"has the parameters \(text\); accepted: \(response, answer\); TRL's"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_at_the_start(path, function, reason):
    with pytest.raises(RecipeError, match=rf"verifiers\.mine: .*rewards\.py:{function} cannot be used: .*{reason}"):
        Grader({"fine": f"{path}:score", "mine": f"{path}:{function}"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def score(", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "its process ended with exit status 3"),
        ("while True: pass", "took longer than 2 seconds"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_at_the_start(tmp_path, monkeypatch, text, reason):
    monkeypatch.setattr(grading, "LOADING_SECONDS", 2.0)
    path = tmp_path / "rewards.py"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"verifiers\.mine: .*rewards\.py:score cannot be used: {reason}"):
        Grader({"mine": f"{path}:score"})


def test_paths_are_relative_to_the_current_directory_and_hashed_without_an_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit")
    (user,) = user_verifiers({"mine": "mine.py:score"})
    assert (user.path, user.function) == (str(tmp_path.resolve() / "mine.py"), "score")
    assert user.sha256 == "3c66a0c62f39423a8d71a3414d4fb4481688f4c83d4da724c9c3fcd192013084"
