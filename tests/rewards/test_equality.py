"""What is equal under `math`: the table of docs/rewards.md, and that no text makes the decision slow."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copd.rewards.grading import _plan_math
from copd.rewards.kinds import Date, Quantity, Words, expression, judged, kind
from copd.rewards.verifiers import Verdict

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^\| [^|]+ \| `(.+)` \| `(.+)` \| (right|wrong) \|$", PAGE, re.MULTILINE)


def right(answer: str, reference: str) -> bool:
    """The verdict of `math`, without a grading process."""
    plan = _plan_math(answer, reference)
    return (plan if isinstance(plan, Verdict) else plan[0](*plan[1:])).correct


def test_the_page_has_the_pairs():
    assert len(PAIRS) > 110
    assert {verdict for *_, verdict in PAIRS} == {"right", "wrong"}


@pytest.mark.parametrize(("reference", "answer", "verdict"), PAIRS)
def test_a_pair_of_the_page_has_its_verdict(reference, answer, verdict):
    assert right(answer, reference) is (verdict == "right")


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"1.6 \times 10^{-19}", r"1.7 \times 10^{-19}", False),
        (r"1.38 \times 10^{-23}", r"-1.38 \times 10^{-23}", False),
        (r"\left(\frac{1}{2}\right)^{60}", r"\left(\frac{1}{2}\right)^{70}", False),
        (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}", False),
        (r"6.67 \times 10^{-11}", "0.0000001", False),
        (r"\sqrt{2} \times 10^{-18}", r"\sqrt{3} \times 10^{-18}", False),
        (r"\pi \times 10^{-20}", r"3.14159265 \times 10^{-20}", True),
        (r"(10^{-18}, 2)", r"(10^{-18}, 2)", True),
        (r"\begin{pmatrix}10^{-20}&2\end{pmatrix}", r"\begin{pmatrix}10^{-20}&2\\3&4\end{pmatrix}", False),
        ("post", "stop", False),
        (r"\text{no}", r"\text{on}", False),
        ("1.6e-19", r"1.6 \times 10^{-19}", True),
        ("1e+22", "10^{22}", True),
        ("90°", r"90^\circ", True),
        ("7/2", "3 1/2", True),
        ("3 1/2", r"3\frac{1}{2}", True),
        ("18", r"\$18", True),
        ("18 dollars", "18 dollars.", True),
        ("5 percent", "5", True),
        ("2 squared", "2", False),
        ("3 o", "3", False),
        ("3 thousand km", "3000 km", True),
        (r"2\sqrt{3} cm", "3.464102 cm", True),
        (r"2\sqrt{3} cm", "3.46 cm", False),
        (r"10^3 \cdot 3", "3 thousand km", True),
        (r"\frac{\sqrt{4}}{8}", "25%", True),
        ("well-known", "Well-known", True),
        ("x-y", "y-x", False),
        ("x-y", "-y+x", True),
        (r"\{red, blue\}", "blue, red", True),
        ("[red, blue]", "[blue, red]", False),
        ("2024-3-5", "2016", False),
        ("March 5, 2024", "Mar 5, 2024", True),
        ("1/2/2024", "01/02/2024", True),
        ("1/2/2024", "2/1/2024", False),
    ],
)
def test_other_pairs_of_these_kinds(reference, answer, verdict):
    assert right(answer, reference) is verdict


def test_a_text_has_the_kind_that_a_person_would_give_it():
    assert kind("12 km/h") == Quantity(kind("12").number, "12", "km / h")
    assert kind("$5") == Quantity(kind("5").number, "5", "dollar")
    assert kind("5 March 2024") == kind("2024-03-05") == Date("2024-03-05")
    assert kind("Ho Chi Minh City") == Words("ho chi minh city")
    for text in ("x", "x y", "x-y", "2x", r"\pi", "(1, 2)", "5 or 6", "2 pi", "a" * 400, ""):
        assert kind(text) is None, text


def test_mathematics_gets_latex_for_what_was_typed_and_no_unit():
    assert expression("6.02e23x") == "6.02e23x"
    assert expression("2×1e-5") == r"2\times 1 \times 10^{-5}"
    assert expression(r"\frac{3}{4}\text{ hours}") == r"\frac{3}{4}"
    assert expression("√(x+1) + √2 + ½") == r"\sqrt{x+1} + \sqrt{2} + \frac{1}{2}"
    assert expression("spin") == "spin"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text("0123456789.,/e^{}\\$% abkm-", max_size=60))
def test_any_two_texts_are_judged_alike_in_both_directions_or_left_to_mathematics(one, other):
    for pair in ((one, other), (other, other)):
        assert judged(*pair) in (True, False, None)
        assert expression(pair[1]) is not None
    assert judged(other, other) is not False or kind(other) is None or not other.strip()


@pytest.mark.parametrize("hostile", ["1" * 9000, "a" * 9000, "a-" * 4000, "1 " * 4000, "{" * 9000, "\\text{" * 900])
def test_no_text_takes_long(hostile):
    began = time.perf_counter()
    for text in (hostile, hostile[:300]):
        judged(text, "16")
        expression(text)
    assert time.perf_counter() - began < 1
