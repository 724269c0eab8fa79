r"""One spelling of a text: LaTeX for what was typed. Imports no torch: grading processes use it too.

`√2.25` is `\sqrt{2.25}`, `10⁵` and `10^-5` have their exponent in braces, and `1,500\pi` has no comma.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

TYPING = r"""
− -
– -
— -
‑ -
＋ +
× \times
· \cdot
⋅ \cdot
÷ \div
∗ *
° ^\circ
π \pi
α \alpha
β \beta
θ \theta
λ \lambda
μ \mu
µ \mu
ω \omega
Ω \Omega
∞ \infty
∪ \cup
∩ \cap
∅ \emptyset
∈ \in
ℝ \mathbb{R}
≤ \le
≥ \ge
≠ \ne
≈ \approx
± \pm
½ \frac{1}{2}
⅓ \frac{1}{3}
⅔ \frac{2}{3}
¼ \frac{1}{4}
¾ \frac{3}{4}
⅕ \frac{1}{5}
⅖ \frac{2}{5}
⅗ \frac{3}{5}
⅘ \frac{4}{5}
⅙ \frac{1}{6}
⅚ \frac{5}{6}
⅛ \frac{1}{8}
⅜ \frac{3}{8}
⅝ \frac{5}{8}
⅞ \frac{7}{8}
⁄ /
′ '
’ '
"""
SIGNS = {line[0]: line[2:] + " " * line[-1].isalpha() for line in TYPING.split("\n") if line}
"""Characters that are typed in the place of LaTeX, and the LaTeX that they stand for."""
INVISIBLE = {ord(sign): None for sign in "\u200b\u2060\ufeff"}
TYPED = re.compile("|".join(map(re.escape, SIGNS)))
RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "₀₁₂₃₄₅₆₇₈₉₋₊"
LEVEL = str.maketrans(RAISED + LOWERED, "0123456789-+" * 2)
SCRIPT = re.compile(rf"([{RAISED}]+)|([{LOWERED}]+)")
STARS = re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])")
POWER = re.compile(r"\^\s?(-\d+(?:\.\d+)?|-[A-Za-z]|\d{2,}(?:\.\d+)?|\d\.\d+)(?![\d.]*\d)")
"""A power whose exponent is typed without braces: `10^-3`. LaTeX would raise its first character only."""
ROOT = re.compile(r"([\u221a\u221b])\s?(?=(\()|(\{)|(\\frac\s?\{)|(\d+(?:\.\d+)?|\\pi|[A-Za-z](?:\^\{?\d+\}?)?))")
NAMED = re.compile(r"(?<![\\A-Za-z])(?<!_\{)(?:(pi)|infinity|inf)(?![A-Za-z])")
E_NOTATION = re.compile(r"(?<![\w.\\{])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])")
BRACED_COMMA = re.compile(r"\{,\}|,?\\!")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
"""A number in groups of three digits. A space behind a comma makes a list instead."""
THIN = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\\[,:;]|[\u00a0\u202f\u2009])\d{3})+(?!\d)|^[+-]?\d{1,3}(?: \d{3})+(?! ?\d)"
)
"""A number with spaces between the groups of its digits: narrow ones anywhere, others at the beginning of a text."""
OPENED, CLOSED = ("(", "[", "\\{"), (")", "]", "\\}")
MARKS = re.compile(
    r"\\(?:left|right)\s?\.|\\(?:left|right|displaystyle|limits|[bB]igg?[lr]?)(?![A-Za-z])|(?<!\\)\\[()\[\]]"
)
"""What sets type only."""
GAP = re.compile(r"(?<!\\)\\[,;: ]|(?<!\\)~|\\q?quad(?![A-Za-z])")
"""White space of LaTeX, whose commas separate nothing."""
EMPTY = re.compile(r"\\varnothing(?![A-Za-z])")
SPACE = re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~|\s+")
QUOTED, APOSTROPHE = re.compile(r"(\"|''?|``?|\u201c|\u2018)(.+?)(\"|''?|`|\u201d)"), re.compile(r"(?<=\w)'(?=\w)")
QUOTES = ('""', "''", "``", "`'", "\u201c\u201d", "\u2018'")
"""Pairs of quotation marks, each of which may be doubled. One mark alone is a prime: ABC' is not ABC."""
FONTS = (
    "text|textbf|textrm|textit|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mbox|emph|operatorname"
    "|boldsymbol|bm|underline"
)
FONT = rf"\\(?:{FONTS})\s?\{{([^{{}}]*)\}}"
TEXT, DEGREE = re.compile(FONT), re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\degrees?\b")
FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln log lg exp sqrt det gcd lcm max min"
FUNCTION = re.compile(rf"(?<![\\A-Za-z])(?<!_\{{)({FUNCTIONS.replace(' ', '|')})(?![A-Za-z])")
CIRCULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|pi)(?![A-Za-z])")
"""Where it makes a difference whether an angle has degrees."""
OF_DEGREES = re.compile(rf"(\d+(?:\.\d+)?|\\?[A-Za-z]+|[)}}])\s*(?:{DEGREE.pattern})")


@lru_cache(maxsize=4096)
def spelled(text: str) -> str:
    """The text as LaTeX, with one spelling for numbers, powers and roots."""
    text = unicodedata.normalize("NFC", text.translate(INVISIBLE))
    text = re.sub(r"^\s*~(?=[A-Za-z(])", r"\\sim ", MARKS.sub(" ", text))
    text = THIN.sub(lambda found: re.sub(r"\D", "", found[0]) if found[0][0] not in "+-" else _signed(found[0]), text)
    text = EMPTY.sub(r"\\emptyset", GAP.sub(" ", text))
    text = THOUSANDS.sub(_grouped, BRACED_COMMA.sub(lambda found: "," if "," in found[0] else "", text))
    text = SCRIPT.sub(_script, text)
    text = TYPED.sub(lambda found: SIGNS[found[0]], text)
    text = re.sub(r"(?<![A-Za-z])\\?sqrt\s?(?=\()", "\u221a", text)
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)", r" \\times ", text)
    text = POWER.sub(r"^{\1}", STARS.sub("^", text))
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", ROOT.sub(_root, _closed_root(text)))
    text = re.sub(r"\\frac\s+(?=[\d{])", r"\\frac", text)
    return text.strip()


def bare(text: str) -> str:
    """A text in one spelling without what only sets type: fonts, dollar signs around it, kinds of white space."""
    text = DEGREE.sub(" degree ", TEXT.sub(r" \1 ", text.replace("\\%", "%")))
    text = SPACE.sub(" ", text).strip()
    text = re.sub(r"(?<!\\)\$((?:\\\$|[^$])*)(?<!\\)\$", r"\1", text)
    return unquoted(text.strip())


def unquoted(text: str) -> str:
    """The text without a pair of quotation marks around all of it."""
    match = QUOTED.fullmatch(text)
    if not match or match[1][0] + match[3][0] not in QUOTES:
        return text
    return text if {*match[1], *match[3]} & {*APOSTROPHE.sub("", match[2])} else match[2].strip()


def calculable(latex: str) -> str:
    """A spelled expression for mathematics: names as commands, 6e23 as a product, degrees as what they are."""
    latex = E_NOTATION.sub(r"\1 \\times 10^{\2}", latex)
    latex = NAMED.sub(lambda found: r"\pi " if found[1] else r"\infty ", FUNCTION.sub(r"\\\1 ", latex))
    if CIRCULAR.search(latex):
        latex = OF_DEGREES.sub(_in_degrees, latex)
    return DEGREE.sub("", latex)


def _script(found: re.Match[str]) -> str:
    script = found[0].translate(LEVEL)
    return ("^" if found[1] else "_") + (script if len(script) == 1 else f"{{{script}}}")


def _signed(number: str) -> str:
    return number[0] + re.sub(r"\D", "", number)


def _grouped(found: re.Match[str]) -> str:
    """A number without its commas; as it is if it alone fills brackets, since (100,200) is a point."""
    text, start, end = found.string, found.start(), found.end()
    before, behind = text[:start].rstrip(" -"), text[end:].lstrip()
    alone = before.endswith(OPENED) and behind.startswith(CLOSED) and before[-2:-1] not in {")", "}"}
    named = before[-2:-1].isalpha() or before[-2:-1] in {")", "}"}
    return found[0] if alone and not named else found[0].replace(",", "")


def _root(found: re.Match[str]) -> str:
    index = "" if found[1] == "\u221a" else "[3]"
    return rf"\sqrt{index}"


def _closed_root(text: str) -> str:
    """The text with braces around what stands under each typed sign of a root."""
    at = 0
    while match := ROOT.search(text, at):
        start = match.end()
        end = match.end(5) if match[5] else _closing(text, match)
        if end is None:
            return text
        inner = text[start:end]
        inner = inner[1:-1] if match[2] or match[3] else inner
        text = f"{text[:start]}{{{inner}}}{text[end:]}"
        at = start
    return text


def _closing(text: str, match: re.Match[str]) -> int | None:
    """Where the bracket, or the fraction, behind a sign of a root ends."""
    opening, closing = ("(", ")") if match[2] else ("{", "}")
    depth, groups = 0, 2 if match[4] else 1
    for at in range(match.end(), len(text)):
        depth += {opening: 1, closing: -1}.get(text[at], 0)
        if depth == 0 and text[at] == closing:
            groups -= 1
            if groups == 0:
                return at + 1
    return None


def _in_degrees(found: re.Match[str]) -> str:
    part = r"\cdot \frac{\pi}{180}"
    return found[1] + part if found[1] in ")}" else rf"{{({found[1]}{part})}}"
