"""Mathematical equality by math-verify, called directly: what counts as equal."""

import pytest

from copd.rewards.mathematics import equivalent


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
        ("x=16", "16"),
        (r"16\text{ cm}", "16"),
        (r"\text{east}", "east"),
        ("[0,1)", r"\left[0,1\right)"),
        (r"\{1,2\}", r"\{2,1\}"),
        (r"50\%", "0.5"),
        ("{16}", "16"),
    ],
)
def test_equal_in_another_spelling(answer, reference):
    assert equivalent(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("17", "16"),
        ("", "16"),
        ("16", ""),
        ("14, 15, 16, 17", "16"),
        ("15 or 16", "16"),
        (r"\text{15 or 16}", "16"),
        ("15; 16", "16"),
        (r"16\boxed{17}", "16"),
        (r"\frac{1}{3}", "0.3"),
        ("(4,3)", "(3,4)"),
        ("[0,1]", "[0,1)"),
        ("x+1", "x-1"),
        ("all of them", "16"),
        ("__import__('os').abort()", "16"),
        ("9" * 900, "16"),
        ("(" * 30 + "16", "16"),
        ("\x00", "16"),
        ("\ud800", "16"),
    ],
)
def test_different_several_or_no_mathematics_at_all(answer, reference):
    assert not equivalent(answer, reference)
