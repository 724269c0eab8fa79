"""The page in a real browser; skipped where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import browser_of

A4 = 718
"""Pixels between the margins of a page."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = browser_of(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(params=["copd", "comparison"])
def page(request, every_page) -> Path:
    return every_page[request.param]


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_opens_without_a_complaint_or_a_request(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.complaints() == []
    asked = [address for address in browser.requested() if not address.startswith("data:image/png")]
    assert asked == [page.resolve().as_uri()]


OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.skip, .wide, .multiples, svg')
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40))"""


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_reaches_beyond_the_window(browser, page, width):
    browser.open(page, width)
    browser.unfold()
    assert browser.value(OVERFLOWING) == []
    assert browser.value("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1400])
def test_every_figure_and_picture_is_visible_and_its_type_legible(browser, page, width, every_page):
    runs = len(every_page) - 1 if page.name == "comparison.html" else 1
    browser.open(page, width)
    browser.unfold()
    figures = browser.value(
        "[...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert len(figures) >= 5 * runs
    assert all(width > 250 and height > 150 for width, height in figures)
    sizes = browser.value("[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)")
    assert min(sizes) > 8
    shown = browser.value("[...document.images].map(e => e.complete && e.naturalWidth > 0 && e.checkVisibility())")
    assert all(shown)
    assert len(shown) == 5 * runs


CONTRASTS = """(() => {
    const channel = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const luminance = e => getComputedStyle(e).color.match(/[\\d.]+/g).map(v => channel(v / 255))
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const paper = document.createElement('i'); paper.style.color = 'var(--paper)'; document.body.append(paper);
    const b = luminance(paper); paper.remove();
    const texts = document.querySelectorAll('p, td, th, h1, h2, h3, a, figcaption, caption, summary, dt, dd, svg text');
    return [...texts].map(e => [luminance(e), e.tagName])
        .map(([a, tag]) => [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), tag]) })()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out_from_the_paper_in_both_themes(browser, page, dark):
    browser.open(page, 1400, dark=dark)
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 100
    assert min(contrasts)[0] >= 4.5, min(contrasts)
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(21, 23, 26)" if dark else "rgb(252, 251, 248)")


def test_paper_is_white_and_everything_folded_is_printed(browser, page):
    browser.open(page, A4, dark=True, media="print")
    assert browser.value("document.documentElement.scrollWidth") <= A4
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = browser.value("[...document.querySelectorAll('details')].map(d => d.getBoundingClientRect().height)")
    assert heights
    assert min(heights) > 40


def test_the_keyboard_reaches_contents_folds_and_scrolling_tables(browser, page):
    browser.open(page, 360)
    seen = set()
    for _ in range(400):
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        tag = browser.value("document.activeElement.tagName + '.' + document.activeElement.className")
        if tag == "BODY.":
            break
        style = "(s => s.outlineStyle + ' ' + s.outlineWidth)(getComputedStyle(document.activeElement))"
        assert browser.value(style) == "solid 2px", tag
        seen.add(tag)
    assert {"A.skip", "A.", "SUMMARY.", "DIV.wide"} <= seen
