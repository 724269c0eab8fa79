"""Mathematical equality by math-verify, called directly: what counts as equal."""

import pytest
from latex2sympy2_extended import latex2sympy2
from math_verify import parse
from math_verify.parser import parse_latex_cached
from sympy import srepr

from copd.rewards import mathematics
from copd.rewards.mathematics import TwoStages, equivalent

SHORT = [
    *(r"12\sqrt{7}", r"\sqrt{1008}", r"\frac{12\pi}{7}", r"12\pi/7"),
    *("(12,7)", r"\left(12, 7\right)", "[12,19)", r"\left[12, 19\right)"),
]
LATEX = [
    *SHORT,
    *("84", "84.0", r"\frac{12}{7}", "12/7", "12x^2+7x+31", "31+7x+12x^2", r"\text{side 12}", "\\text{ side 12}"),
    *("x+", r"\frac", "(((", "1+2)", "}{", "", "\x00", "16 cm", r"\neg p", "(" * 30 + "16", r"1\boxed{2}"),
    *(r"(1,2)\cup[3,\infty)", r"(-\infty,2]", r"x\in(1,2)", r"\{1,2\}", r"\{x \mid x>2\}", r"\{(1,2),(3,4)\}"),
    *("x=3", "x=1,2", "2x+3y=6", r"x\le 3", "1<x<3", r"x>1 \text{ and } x<2", "(x,y)=(1,2)", "x=2, y=3", "3:4"),
    *("1,000", "2,3", "2, 3", r"12\%", r"3\frac{1}{2}", r"\frac12", r"90^\circ", r"10^{-3}", "1/2/3", "a b c", "-(-3)"),
    *(r"\sqrt[3]{8}", r"\sin^2x+\cos^2x", r"\log_28", r"e^{i\pi}", "5!", r"\binom{5}{2}", "|x-1|", r"\pm2", "x^{2^3}"),
    *(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\int_0^1xdx", r"\sum_{k=1}^{10}k", r"\lim_{x\to0}\frac{\sin x}{x}"),
    *(
        r"(x+1)^2",
        r"x^2+2x+1",
        r"\frac{x^2-1}{x-1}",
        r"\tan\theta",
        r"\frac{\pi}{2}+k\pi",
        r"\left(\frac12,-\frac34\right)",
    ),
]
"""Answers of every form, some of them none."""


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
        ("e^{0.5x}", r"e^{\frac{x}{2}}"),
        ("GMm", "mGM"),
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
        ("2ab", "2"),
        ("2 o", "2"),
        (r"\frac{M}{m}", "1"),
        ("I", "i"),
        ("E", "e"),
        (r"\Delta", r"\delta"),
        (r"\gamma", "0.57721566490153"),
        ("10^{-20}x", "10^{-21}x"),
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


def read(texts: list[str]) -> list[list[str]]:
    """What math-verify reads in each."""
    parse_latex_cached.cache_clear()
    found = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in texts]
    return [[each if isinstance(each, str) else srepr(each) for each in several] for several in found]


def test_two_stages_read_what_the_parser_of_the_library_reads_and_need_its_second_for_few(monkeypatch):
    again, tokens = [], mathematics.CommonTokenStream
    monkeypatch.setattr(mathematics, "CommonTokenStream", lambda lexer: again.append(1) or tokens(lexer))
    assert latex2sympy2.PSParser is TwoStages
    ours = read(LATEX)
    assert 0 < len(again) < len(LATEX) / 3
    monkeypatch.setattr(latex2sympy2, "PSParser", TwoStages.__base__)
    assert read(LATEX) == ours
    assert sum(not one for one in ours) < len(LATEX) / 5


def test_points_and_intervals_need_no_second_stage(monkeypatch):
    monkeypatch.setattr(mathematics, "CommonTokenStream", None)
    assert all(len(found) == 2 for found in read(SHORT))
