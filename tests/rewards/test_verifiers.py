"""Rewards: right answers earn 1, and every hostile or lazy response earns 0, quickly."""

import time

import pytest

from copd.errors import RecipeError
from copd.rewards.verifiers import VERIFIERS, exact, integer, reward
from copd.types import Problem

INTEGERS = [
    ("16", "16", True),
    (" 16\n", "16", True),
    ("+16", "16", True),
    ("016", "16", True),
    ("-3", "-3", True),
    ("-0", "0", True),
    ("9" * 18, "9" * 18, True),
    ("17", "16", False),
    ("-16", "16", False),
    ("", "16", False),
    ("", "", False),
    ("-", "16", False),
    ("--16", "-16", False),
    ("1 6", "16", False),
    ("1_6", "16", False),
    ("16.0", "16", False),
    ("16,", "16", False),
    ("0x10", "16", False),
    ("8+8", "16", False),
    ("1e1", "10", False),
    ("1e999999999", "16", False),
    ("inf", "16", False),
    ("nan", "nan", False),
    ("9" * 19, "9" * 19, False),
    ("9" * 5000, "16", False),
    ("\u0661\u0666", "16", False),
    ("\uff11\uff16", "16", False),
    ("\u00b2", "2", False),
    ("16\x00", "16", False),
    ("\ud800", "16", False),
    ("9**9**9", "16", False),
    ("__import__('os').system('true')", "16", False),
    ("16\n17", "16", False),
]

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


def problem(answer: str = "16", verifier: str = "integer") -> Problem:
    return Problem("text/train/0/0", "text", "sum: 8 8", answer, verifier)


@pytest.mark.parametrize(("answer", "reference", "right"), INTEGERS)
def test_integers_are_compared_as_short_plain_whole_numbers(answer, reference, right):
    assert integer(answer, reference) is right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("B", "B", True),
        (" B ", "B", True),
        ("b", "B", False),
        ("B)", "B", False),
        ("", "B", False),
        ("016", "16", False),
    ],
)
def test_exact_forgives_surrounding_white_space_only(answer, reference, right):
    assert exact(answer, reference) is right


@pytest.mark.parametrize("response", [r"\boxed{16}", r"8 8;16;\boxed{16}", r"\boxed{ +16 }"])
def test_one_right_box_in_a_finished_response_earns_one(response):
    assert reward(problem(), response, finished=True) == 1.0


@pytest.mark.parametrize("response", [r"\boxed{15}", r"\boxed{-16}", r"8 8;16;\boxed{8}"])
def test_a_wrong_box_earns_nothing(response):
    assert reward(problem(), response, finished=True) == 0.0


@pytest.mark.parametrize("response", [r"\boxed{16}", r"8 8;16;\boxed{16}"])
def test_a_right_but_unfinished_response_earns_nothing(response):
    assert reward(problem(), response, finished=False) == 0.0


@pytest.mark.parametrize("verifier", sorted(VERIFIERS))
@pytest.mark.parametrize("response", HACKS)
def test_hacks_earn_nothing_and_take_no_time(response, verifier):
    started = time.perf_counter()
    assert reward(problem(verifier=verifier), response, finished=True) == 0.0
    assert time.perf_counter() - started < 1.0


def test_code_in_a_response_is_not_run(tmp_path):
    witness = tmp_path / "witness"
    code = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    for verifier in VERIFIERS:
        assert reward(problem(verifier=verifier), rf"\boxed{{{code}}}", finished=True) == 0.0
    assert not witness.exists()


@pytest.mark.parametrize("finished", [True, False])
def test_an_unknown_verifier_is_named_with_those_there_are(finished):
    with pytest.raises(RecipeError, match=r"text/train/0/0: unknown verifier 'sympy'; accepted: exact, integer"):
        reward(problem(verifier="sympy"), r"\boxed{16}", finished=finished)
