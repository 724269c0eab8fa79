"""What is equal under `math`: the table of docs/rewards.md, and that no text makes the decision slow."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copd.rewards.equality import judged
from copd.rewards.grading import _plan_math
from copd.rewards.kinds import Date, Expression, Phrase, Quantity, Words
from copd.rewards.members import Kind, Several, kind, latex_of
from copd.rewards.spelling import spelled
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


def kind_of(text: str) -> Kind:
    return kind(spelled(text))


def test_a_text_has_the_kind_that_a_person_would_give_it():
    assert kind_of("12 km/h") == Quantity(kind_of("12").number, "12", "km / h")
    assert kind_of("$5") == kind_of(r"\$5") == Quantity(kind_of("5").number, "5", "dollar")
    assert kind_of("5 March 2024") == kind_of("2024-03-05") == Date("2024-03-05")
    assert kind_of("Ho Chi Minh City") == Words("ho chi minh city")
    for text in ("x", "x-y", "2x", r"\pi", "2 pi", r"\frac{mgh}{2}", r"f'(x)", r"\sqrt{x+1}"):
        assert isinstance(kind_of(text), Expression), text
    for text in (
        "6 feet 2 inches",
        "12#",
        r"\angle ABC",
        r"\bar{A}",
        "0x1F",
        "rate*time",
        "",
    ):
        assert isinstance(kind_of(text), Phrase), text


def test_parts_have_few_levels():
    assert isinstance(kind_of("(1, (2, (3, (4, 5))))"), Several)
    assert isinstance(kind_of("(0, (1, (2, (3, (4, 5)))))"), Phrase)


def test_mathematics_gets_latex_for_what_was_typed_and_no_unit():
    for text, latex in [
        ("2×1e-5", r"2\times 1 \times 10^{-5}"),
        (r"\frac{3}{4}\text{ hours}", r"\frac{3}{4}"),
        ("√(x+1) + √2 + ½", r"\sqrt{x+1} + \sqrt{2} + \frac{1}{2}"),
        ("2^-3 + x⁴ + 10**12", r"2^{-3} + x^4 + 10^{12}"),
        (r"1,500\pi", r"1500\pi"),
        ("y''", "y_{primeprime}"),
        (r"\sin 90^\circ", r"\sin {(90\cdot \frac{\pi}{180})}"),
    ]:
        assert latex_of(kind_of(text)) == latex


def test_what_is_left_to_mathematics_is_what_both_sides_spell():
    asked = []
    assert judged("2x+3=y", "y=2x + 3", lambda *pair: asked.append(pair) or True)
    assert judged("x=1", "2", lambda *pair: asked.append(pair) or True) is False
    assert judged("A1 B2", "A2 B1", lambda *pair: asked.append(pair) or True) is False
    assert asked == [("2x + 3", "2x+3")] or asked == [("2x+3", "2x + 3")]
    assert judged(r"\sqrt{4}", "2") is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text("0123456789.,/e^{}()[]=<>'\\$% abkm-:;", max_size=60))
def test_any_two_texts_are_judged_and_equal_themselves(one, other):
    for pair in ((one, other), (other, one)):
        assert judged(*pair) in (True, False, None)
    assert judged(other, other)
    assert judged(one, one)


HOSTILE = [
    "1" * 9000,
    "a" * 9000,
    "a-" * 4000,
    "1 " * 4000,
    "{" * 9000,
    "\\text{" * 900,
    "√(" * 4000,
    "1," * 4000,
    "=" * 9000,
]
HOSTILE += ["(" * 140 + "1" + ")" * 140, "(" * 60 + "1" + ",2)" * 60, "\\{" * 40 + "1" + ",2\\}" * 40]
HOSTILE += [
    "(1=" * 50 + "1" + ",2)" * 50,
    "((" * 40 + "1" + "=2)=3)" * 40,
    "1,2," * 70,
    "x=" * 140 + "1",
    "\\pm" * 90,
    "^\\circ" * 90,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=[text[:9] for text in HOSTILE])
def test_no_text_takes_long(hostile):
    began = time.process_time()
    for text in (hostile, hostile[:1000], hostile[:300]):
        judged(text, "16")
        judged(text, text[::-1])
        judged(text, text.replace("2", "3"))
        judged(text + " ", text.replace("1", "2"))
    assert time.process_time() - began < 1
