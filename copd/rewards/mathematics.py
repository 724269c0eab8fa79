"""Mathematical equality by math-verify. It parses a model's text, so it only runs in processes that can be killed."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from antlr4 import CommonTokenStream
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import grader
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Float, I, Integer, MatrixBase, N, Poly, Rational
from sympy.polys.polyerrors import BasePolynomialError

for library in ("math_verify", "latex2sympy2_extended"):
    logging.getLogger(library).setLevel(logging.CRITICAL)


class TwoStages(latex2sympy2.PSParser):
    """math-verify's parser of LaTeX, which predicts without the full context if that is enough.

    Without the full context ANTLR gives the same tree or an error. After an error the text is parsed again with the
    full context. Points, intervals and sets are parsed 20 times faster.
    """

    def math(self) -> Any:
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except Exception:  # what the library raises for an error of syntax
            lexer = self._input.tokenSource
            lexer.reset()
            self.setTokenStream(CommonTokenStream(lexer))
            self._interp.predictionMode = PredictionMode.LL
            return super().math()


class AllDigits(latex2sympy2._Latex2Sympy):
    """math-verify's reader of LaTeX, which computes with more digits than a decimal has, so that 0.1 + 0.2 is 0.3."""

    def parse_number(self, text: str) -> Any:
        number = super().parse_number(text)
        return Float(text.replace(",", ""), DIGITS + len(text)) if isinstance(number, Float) else number


latex2sympy2.PSParser = TwoStages
latex2sympy2._Latex2Sympy = AllDigits


NORMAL = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
"""math-verify's usual corrections, but no text is cut off as a unit: by its list, 2ab and 2 o would be 2."""
CONVERSION = ConversionConfig(lowercase_symbols=False)
CONSTANTS = re.compile(r"(?<![A-Za-z\\{])I(?![A-Za-z])|\\(gamma|Gamma(?!\s*\())(?![A-Za-z])")
"""Letters that the parser would take for the imaginary unit or Euler's constant."""
ROUNDED = 1e-6
"""Relative tolerance where a side is written as a decimal and the reference is not whole, as under `number`."""
DIGITS, EXACT = 60, 1e-40
"""Digits to which values are computed, and the relative difference up to which two exact ones are equal."""
LARGEST_POWER = 10_000
"""A larger number in an expression with symbols may be a power, and is left to their symbolic comparison."""


def same_value(reference: Any, answer: Any, *_: int) -> bool:
    """Whether two expressions of sympy have the same value, or as polynomials the same coefficients.

    The difference counts relative to the reference. math-verify's own function, whose place this takes, counts it
    absolutely, so that all small numbers are equal.
    """
    wanted, found = grader.safe_sympy_doit(reference), grader.safe_sympy_doit(answer)
    if isinstance(wanted, MatrixBase) or isinstance(found, MatrixBase):
        if not isinstance(wanted, MatrixBase) or not isinstance(found, MatrixBase) or wanted.shape != found.shape:
            return False
        return all(same_value(*pair) for pair in zip(wanted.flat(), found.flat(), strict=True))
    if not isinstance(wanted, Basic) or not isinstance(found, Basic):
        return False
    if wanted == found or _close(wanted, found):
        return True
    bare = grader.get_pct_val(reference), grader.get_pct_val(answer)
    return (bare[0] is None) != (bare[1] is None) and _close(
        wanted if bare[0] is None else bare[0], found if bare[1] is None else bare[1]
    )


def _close(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Rational) and isinstance(found, Rational):
        return bool(wanted == found)
    symbols = sorted(wanted.free_symbols | found.free_symbols, key=str)
    if symbols:
        if any(abs(number) > LARGEST_POWER for side in (wanted, found) for number in side.atoms(Integer)):
            return False  # a polynomial has a term for each power
        try:
            terms = [dict(Poly(side, *symbols).terms()) for side in (wanted, found)]
        except BasePolynomialError:
            return False
        return terms[0].keys() == terms[1].keys() and all(
            _close(terms[0][power], terms[1][power]) for power in terms[0]
        )
    values = N(wanted, DIGITS), N(found, DIGITS)
    if not all(value.is_number and value.is_finite for value in values):
        return False
    tolerance = EXACT
    if wanted.has(Float) or found.has(Float):
        if wanted.has(I) or found.has(I):
            return all(_close(*parts) for parts in zip(wanted.as_real_imag(), found.as_real_imag(), strict=True))
        tolerance = EXACT if wanted.is_integer else ROUNDED
    return bool(abs(values[0] - values[1]) <= tolerance * abs(values[0]))


def same_symbols(reference: Any, answer: Any) -> bool:
    """Whether two expressions, one of them a symbol, are equal. math-verify's own function ignores case."""
    return same_value(reference, answer) or bool(grader.sympy_symbolic_eq(reference, answer))


grader.sympy_numeric_eq = same_value
grader.sympy_compare_symbols = same_symbols


def equivalent(answer: str, reference: str) -> bool:
    """Whether two expressions, equations, inequalities or sets in LaTeX are equal.

    Texts that cannot be parsed equal nothing. It may hang, crash or use up all memory.
    """
    real = not any(map(should_treat_as_complex, (answer, reference)))
    try:
        wanted, found = _parsed(reference, real), _parsed(answer, real)
        if _same(wanted, found):
            return True
        others = [(_exact(wanted), _exact(found)), (_complex(wanted), _complex(found))]
        return any((one is not wanted or other is not found) and _same(one, other) for one, other in others)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # what the libraries raise for what they cannot read
        return False


def _same(wanted: Any, found: Any) -> bool:
    return bool(grader.sympy_expr_eq(wanted, found, 6, 15, allow_set_relation_comp=True))


def _exact(expression: Any) -> Any:
    """The expression with fractions for decimals, which stand in powers and functions."""
    decimals = expression.atoms(Float) if expression.free_symbols else ()
    return expression.xreplace({each: Rational(str(each)) for each in decimals}) if decimals else expression


def _complex(expression: Any) -> Any:
    """The expression with the imaginary unit for i, if i is its only symbol; else i may be an index."""
    symbols = expression.free_symbols
    return expression.xreplace(dict.fromkeys(symbols, I)) if {each.name for each in symbols} == {"i"} else expression


@lru_cache(maxsize=4096)
def _parsed(text: str, real: bool) -> Any:
    named = CONSTANTS.sub(lambda found: rf"\variable{{{found[1] or 'I'}}}", text)
    return latex2sympy(
        normalize_latex(named, NORMAL), is_real=real, normalization_config=None, conversion_config=CONVERSION
    )
