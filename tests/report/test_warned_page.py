"""The warnings on a page: in their order, escaped, bounded; no section where there are none."""

import pytest

from copd.report.contents import MOST_WARNINGS
from copd.report.page import write_comparison, write_report
from copd.runs.runlog import read_lines, write_lines

HOSTILE = "<img src=x onerror=alert(1)>{{ 7 * 7 }}"
HEADING = '<h2 id="warnings">Warnings</h2>'

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def warned(make_run):
    """A run with these warnings before its last line: step, guard, message."""

    def make(name, *warnings):
        folder = make_run(name)
        path = folder / "metrics.jsonl"
        *records, last = read_lines(path)
        given = [
            {"event": "warning", "seconds": 9.0} | dict(zip(("step", "guard", "message"), w, strict=True))
            for w in warnings
        ]
        write_lines(path, [*records, *given, last])
        return folder

    return make


def test_warnings_stand_in_a_section_of_their_own_with_step_and_guard(warned):
    page = write_report(warned("run", (-1, "length", "cuts all"), (2, "reward", "all earn 0"))).read_text()
    assert HEADING in page
    assert '<a href="#warnings">Warnings</a>' in page
    assert '<th scope="row">start</th><td class="text">length</td><td class="prose">cuts all</td>' in page
    assert '<th scope="row">3</th><td class="text">reward</td><td class="prose">all earn 0</td>' in page


def test_a_run_without_warnings_has_no_such_section(make_run):
    page = write_report(make_run()).read_text()
    assert "#warnings" not in page
    assert HEADING not in page


def test_in_a_comparison_they_stand_with_their_run(warned, make_run):
    runs = [warned("sick", (2, "reward", "all earn 0"), (3, "clamp", "far apart")), make_run("well")]
    page = write_comparison(runs).read_text()
    sick, well = page.split("<details class=")[1:3]
    assert "2 warnings</summary>" in sick
    assert "<h4>Warnings</h4>" in sick
    assert "all earn 0" in sick
    assert "arning" not in well.split("</section>")[0]


def test_a_hostile_warning_is_escaped_and_never_evaluated(warned):
    runs = [warned("run", (2, HOSTILE, HOSTILE)), warned("other", (2, HOSTILE, HOSTILE))]
    for page in (write_report(runs[0]).read_text(), write_comparison(runs).read_text()):
        assert "<img src=x" not in page
        assert page.count("{{ 7 * 7 }}") >= 2


def test_a_page_shows_the_first_warnings_and_counts_the_rest(warned):
    many = [(step, "reward", f"number {step}.") for step in range(MOST_WARNINGS + 5)]
    page = write_report(warned("run", *many)).read_text()
    assert f"number {MOST_WARNINGS - 1}." in page
    assert f"number {MOST_WARNINGS}." not in page
    assert "5 more stand in" in page
