"""Where the time went, in words: branches side by side, and what checkpoints took."""

import re

import pytest

from copd.report.page import write_comparison, write_report
from copd.runs.runlog import read_lines, write_lines

pytestmark = pytest.mark.usefixtures("undrawn")


def with_changes(folder, event, **changes):
    path = folder / "metrics.jsonl"
    write_lines(path, [{**line, **(changes if line["event"] == event else {})} for line in read_lines(path)])
    return folder


def test_branches_side_by_side_may_train_for_longer_than_the_clock_went(make_run):
    page = write_report(make_run()).read_text()
    assert "21 s on the clock. The branches, side by side, trained for 22 s in all: " in page
    assert "went into measuring" not in page
    page = write_report(with_changes(make_run("slow"), "result", seconds=30.0)).read_text()
    assert "30 s on the clock. 22 s of it were training: " in page
    assert "The other 8.0 s went into measuring, saving and evaluating." in page


def test_no_time_is_shown_below_zero(make_run):
    runs = [make_run(), with_changes(make_run("slow"), "result", seconds=30.0)]
    table = write_comparison(runs).read_text().split("on the clock")[2]
    assert "<td>–</td><td>21</td>" in table
    assert "<td>8</td><td>30</td>" in table
    assert not re.search(r"<td>-\d", table)


def test_a_run_that_is_not_finished_has_no_seconds_of_activities_yet_beside_others(make_run):
    runs = [make_run(), make_run("young", finished=False)]
    table = write_comparison(runs).read_text().split("on the clock")[2]
    assert re.search(r">young</th>(<td>–</td>){4}<td>\d+</td><td>–</td></tr>", table)


def test_the_share_of_checkpoints_is_told(make_run):
    folder = with_changes(make_run(), "ledger", save_seconds=1.5, between_saves_seconds=60.0)
    assert "Checkpoints took 1.5 s, 2.5&nbsp;% of the time between them." in write_report(folder).read_text()
    assert "Checkpoints took" not in write_report(make_run("older")).read_text()
