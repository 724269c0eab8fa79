"""Mathematical equality by math-verify. It parses a model's text, so it only runs in processes that can be killed."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from antlr4 import CommonTokenStream
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from math_verify import parse, verify

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


latex2sympy2.PSParser = TwoStages


def equivalent(answer: str, reference: str) -> bool:
    """Whether two pieces of LaTeX are equal for math-verify. It may hang, crash or use up all memory.

    math-verify's own time limits are off: they need the main thread, and cannot stop C code.
    """
    return bool(verify(list(_parsed(reference)), list(_parsed(answer)), timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Any, ...]:
    return tuple(parse(f"\\boxed{{{text}}}", parsing_timeout=None))
