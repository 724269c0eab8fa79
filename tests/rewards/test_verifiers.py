"""Our own verifiers: which spellings of an answer are equal, which are not, and that none takes long to tell."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copd.rewards.verifiers import TOLERANCE, VERIFIERS, as_number, choice, exact, integer, misread, number

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
        ("", "", False),
        (" ", "\n", False),
        ("016", "16", False),
        ("Ho Chi\n Minh", " Ho  Chi Minh", True),
        ("HoChi", "Ho Chi", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("x\u00b2", "x2", False),
        ("\ud800", "\ud800", True),
        ("B\x00", "B", False),
    ],
)
def test_exact_forgives_white_space_and_the_encoding_of_accents_only(answer, reference, right):
    assert exact(answer, reference) is right


def test_exact_is_quick_where_answer_or_reference_would_take_long_to_normalise():
    hostile, started = "a" + "\u0316\u0301" * 60_000, time.process_time()
    assert not exact("a", hostile)
    assert not exact(hostile, "a")
    assert time.process_time() - started < 1


NUMBERS = [
    ("16", "16", True),
    (" +16 ", "16.0", True),
    ("016.50", "16.5", True),
    ("-0", "0", True),
    ("- 3", "-3", True),
    ("\u22123", "-3", True),
    ("$16$", "16", True),
    (".5", "1/2", True),
    ("5.", "5", True),
    ("1/2", r"\frac{1}{2}", True),
    (r"-\dfrac{3}{4}", "-0.75", True),
    (r"\tfrac{1.5}{2}", "0.75", True),
    ("1,234,567.5", "1234567.5", True),
    ("1{,}234", "1234", True),
    (r"1,\!234", "1234", True),
    (r"1\,234", "1234", True),
    ("\u20135", "-5", True),
    ("10^{-3}", "0.001", True),
    ("10^-3", "0.001", True),
    ("1.5*10^-3", "1.5e-3", True),
    ("1.5*10^10", "1.5e10", True),
    (r"\frac12", "0.5", True),
    (r"0.\bar{3}", "1/3", True),
    ("10^", "10", False),
    (r"\frac123", "1/23", False),
    ("1.5e3", "1500", True),
    ("1E-2", "0.01", True),
    ("25%", "0.25", True),
    (r"25\%", "25", True),
    ("0.25", "25%", True),
    ("25", "25 %", True),
    ("25%", "25%", True),
    ("0.3333333", "1/3", True),
    ("0.333333", "1/3", True),
    ("0.33333", "1/3", False),
    ("3.1415926", "3.14159", True),
    ("3.1416", "3.14159", False),
    ("12345678", "12345679", False),
    ("2.9999999999", "3", False),
    ("3", "2.9999999999", True),
    ("0.0000000001", "0", False),
    ("25%", "2500%", False),
    ("2500", "25%", False),
    ("-16", "16", False),
    ("1,5", "1.5", False),
    ("1,23", "123", False),
    ("1,2,3", "123", False),
    ("15, 16", "16", False),
    ("15 16", "1516", False),
    ("15 or 16", "16", False),
    ("16 cm", "16", False),
    ("x=16", "16", False),
    ("8+8", "16", False),
    ("4^2", "16", False),
    ("1/2/3", "1/6", False),
    ("1/0", "1", False),
    ("0/0", "0/0", False),
    (r"\frac{1}{0}", "1", False),
    (r"\frac{1}{2", "0.5", False),
    ("1e999999999", "16", False),
    ("1e999999999", "1e999999999", False),
    ("1e-999999999", "0", False),
    ("1e999", "1e999", True),
    ("1e308", "1e309", False),
    ("9" * 90, "9" * 90, True),
    ("9" * 89 + "8", "9" * 90, False),
    ("9" * 5000, "9" * 5000, False),
    ("inf", "inf", False),
    ("nan", "nan", False),
    ("", "", False),
    ("-", "-", False),
    (".", "0", False),
    ("0x10", "16", False),
    ("1_6", "16", False),
    ("{16}", "16", False),
    ("\uff11\uff16", "16", False),
    ("\u00bd", "0.5", False),
    ("16\x00", "16", False),
    ("9**9**9", "16", False),
]


@pytest.mark.parametrize(("answer", "reference", "right"), NUMBERS)
def test_numbers_are_equal_in_every_usual_spelling_and_in_no_other(answer, reference, right):
    assert number(answer, reference) is right


@settings(deadline=None, max_examples=100)
@given(st.fractions(-(10**9), 10**9, max_denominator=10**6), st.integers(-3, 3))
def test_a_number_is_within_a_millionth_of_a_reference_that_is_not_whole_and_exactly_a_whole_one(wanted, millionths):
    reference = f"{wanted.numerator}/{wanted.denominator}"
    found = wanted * (1 + Fraction(millionths, 2) * TOLERANCE)
    whole = wanted.denominator == 1
    assert number(f"{found.numerator}/{found.denominator}", reference) is (
        found == wanted if whole else abs(millionths) <= 2
    )


@settings(deadline=None, max_examples=100)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90))
def test_a_float_as_python_writes_it_is_read_as_its_exact_value(value):
    assert as_number(repr(value)).value == Fraction(repr(value))


def test_reading_a_number_never_raises():
    for text in (*(answer for answer, _, _ in NUMBERS), "A", "\\", "\ud800", "%", "$$"):
        found = as_number(text)
        assert found is None or isinstance(found.value, Fraction), text


SPELLINGS = ["B", " B ", "b", "(B)", "( B )", "[B]", "B)", "B.", "B:", r"\text{B}", r"\textbf{(B)}", r"\mathrm{B}"]
SPELLINGS += ["$B$", "**B**", "**(B)**", r"$\mathbf{B}$", r"\text{ (b) }"]


@pytest.mark.parametrize("reference", SPELLINGS)
def test_a_choice_is_the_same_letter_in_any_usual_spelling(reference):
    assert [answer for answer in SPELLINGS if not choice(answer, reference)] == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A",
        "K",
        "AB",
        "A, B",
        "A or B",
        "A, B, C, D",
        "(A) (B) (C) (D)",
        "ABCDEFGHIJ",
        "A\nB",
        r"\text{A}\text{B}",
        "not B",
        "B. because",
        "(B",
        "(B]",
        "B..",
        "\u0412",
        "\uff22",
        "B\x00",
        "B\ud800",
        r"\text{" * 9 + "B" + "}" * 9,
        "(" * 5000 + "B" + ")" * 5000,
        r"\text{" * 50_000,
    ],
)
def test_another_letter_several_or_anything_else_is_no_choice(answer):
    assert not choice(answer, "B")


@pytest.mark.parametrize("reference", ["", "AB", "16", "all"])
def test_a_reference_that_is_no_letter_is_met_by_nothing(reference):
    assert not choice(reference, reference)


HOSTILE = {
    "5000 digits": "9" * 5000,
    "a million digits": "9" * 1_000_000,
    "a huge exponent": "1e999999999",
    "parentheses": "(" * 100_000 + "16" + ")" * 100_000,
    "braces": "{" * 500_000,
    "wrappings": "\\text{" * 100_000 + "}" * 100_000,
    "stars": "*" * 400_000,
    "dollars": "$" * 400_000,
    "commas": "1,234" * 100_000,
    "accents": "a" + "\u0316\u0300" * 200_000,
    "white space": " " * 400_000 + "x",
    "NULs": "\x00" * 400_000,
    "surrogates": "\ud800" * 400_000,
    "a tower": "9**9**9",
    "code": "__import__('os').abort()",
}


@pytest.mark.parametrize("verifier", sorted(VERIFIERS))
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_answer_is_wrong_at_once(verifier, hostile):
    started = time.process_time()
    assert not VERIFIERS[verifier](HOSTILE[hostile], "16")
    assert time.process_time() - started < 1.0


REFERENCE = st.one_of(
    st.text(min_size=1, max_size=12),
    st.text("0123456789.,/%+-e \\{}$", min_size=1, max_size=8),
    st.sampled_from(["(B)", "$b$", "1,234.5", "\\frac{1}{2}", "25\\%", "x" * 10_001, "9" * 1_001, "1/0"]),
)


@given(st.sampled_from(sorted(VERIFIERS)), REFERENCE.filter(str.strip))
@settings(max_examples=100)
def test_a_reference_is_refused_where_it_would_not_even_equal_itself(name, reference):
    assert (misread(name, reference) is None) == VERIFIERS[name](reference, reference)


@pytest.mark.parametrize(
    ("name", "reference", "said"),
    [
        ("number", "abc", "verifier number reads one number, such as 12, -1,234.5, 3/4, 1e3 or 25%"),
        ("number", "12 km", "verifier number reads one number"),
        ("number", "1/0", "verifier number reads"),
        ("integer", "5.0", "verifier integer reads a whole number of at most 18 digits"),
        ("choice", "cat", "verifier choice reads one letter A to J"),
        ("choice", "A, B", "verifier choice reads"),
        ("exact", "x" * 10_001, "verifier exact reads a text of at most 10000 characters"),
    ],
)
def test_why_a_reference_is_refused(name, reference, said):
    assert misread(name, reference).startswith(said)


def test_of_math_and_of_a_users_verifier_nothing_is_said():
    assert misread("math", "{") is misread("mine", "") is None
