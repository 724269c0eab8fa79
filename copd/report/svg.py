"""A matplotlib figure as an SVG element of a page: its colours and its type are those of the page."""

from __future__ import annotations

import io
import re

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart with every kind of colour vision; the page has a shade of each for its theme."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Every series has its own mark, besides its colour."""
SHADE, QUIET = "#888888", "#777777"
"""Colours of the shading behind the curves and of the frame. Black becomes the colour of the page's text."""
VARIABLES = {
    **{colour: f"var(--s{number})" for number, colour in enumerate(SERIES)},
    SHADE: "var(--shade)",
    QUIET: "var(--soft)",
}


def series(number: int) -> dict[str, str]:
    """Colour and mark of one series. After six series they repeat in other pairs."""
    return {"color": SERIES[number % 6], "marker": MARKERS[(number + number // 6) % 6]}


def as_label(name: str) -> str:
    """A name that matplotlib prints literally: `$` does not start mathematics, a leading `_` does not hide it."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def to_svg(figure: Figure, title: str) -> Markup:
    """The figure as an SVG element named `title`: text stays text, colours follow the theme, width that of the page.

    The same figure gives the same characters, and two figures of different titles share no id.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    body = text[text.index(">") + 1 :]
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="img" aria-label="{escape(title)}">'
    return Markup(head + body)
