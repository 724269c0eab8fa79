"""The tables of a suite: intervals, averages that count benchmarks alike, and what is not comparable."""

import pytest

from copd.suites.results import Result
from copd.suites.suite import make_suite
from copd.suites.table import as_markdown, grids, notes

SUITE = make_suite(
    {
        "title": "Three",
        "sampling": {"temperature": 0.7, "max_new_tokens": 8},
        "benchmarks": {
            "a": {"group": "text", "engine": "rows", "problems": 2, "samples": 2},
            "b": {"group": "text", "engine": "rows", "problems": 4},
            "c": {"group": "image", "engine": "rows", "problems": 1},
        },
        "reference": {"theirs": {"text": 51.25, "overall": 50, "source": "a paper"}},
    },
    "three",
)


def result(name, scores, **fields):
    ids = [str(i) for i in range(len(scores))]
    return Result("m", name, ids, scores, {}, "", "", {}, 1.0, **fields)


A, B, C = result("a", [[1, 0], [1, 1]]), result("b", [[1], [0], [0], [0]]), result("c", [[0]])


def averages(*found):
    return grids(SUITE, {"m": {each.benchmark: each for each in found}})[1]


def test_a_score_is_the_mean_over_problems_of_the_mean_over_samples():
    scores = grids(SUITE, {"m": {"a": A}})[0]
    by_name = {row[1]: row for row in scores.rows}
    assert by_name["a"][2:5] == ["rows", "2", "2"]
    assert by_name["a"][5].startswith("75.0 [")
    assert by_name["b"][5] == "not run"


def test_each_benchmark_counts_alike_in_its_group_and_in_all():
    row = averages(A, B, C).rows[0]
    assert [cell.partition(" ")[0] for cell in row] == ["m", "0.0", "50.0", "33.3"]


def test_an_average_of_a_part_of_its_group_is_not_shown():
    assert averages(A, C).rows[0][2:] == ["1 of 2", "2 of 3"]


def test_published_averages_stand_beside_ours_and_are_marked_as_not_ours():
    assert averages(A).rows[1] == ["theirs (not ours)", "", "51.25", "50.00"]
    assert "Not ours, but printed in a paper: theirs." in notes(SUITE, {"m": {"a": A}})


def test_a_benchmark_that_was_asked_in_part_is_marked_in_every_number_that_it_counts_in():
    part = result("b", [[1], [0]])
    found = {"m": {"a": A, "b": part, "c": C}}
    scores, average = grids(SUITE, found)
    assert {row[1]: row[5].endswith("*") for row in scores.rows} == {"a": False, "b": True, "c": False}
    assert [cell.endswith("*") for cell in average.rows[0]] == [False, False, True, True]
    assert "* not the whole benchmark: b has 4 problems, 2 were asked." in notes(SUITE, found)


def test_cut_responses_and_placeholders_are_counted_in_the_notes():
    told = notes(SUITE, {"m": {"a": result("a", [[1, 0], [1, 1]], cut=3, placeholders=2)}})
    assert "m, a: 3 of 4 responses were truncated." in told
    assert any(line.startswith("m, a: 2 of 4 responses hold a placeholder") for line in told)


def test_the_page_holds_both_tables_and_no_name_or_mark_breaks_them():
    page = as_markdown(SUITE, {"runs|x": {"a": A}})
    assert page.startswith("# Three\n")
    assert r"| runs\|x | 0 of 1 | 1 of 2 | 1 of 3 |" in page
    part = as_markdown(SUITE, {"m": {"b": result("b", [[1], [0]])}})
    assert r"]\* |" in part
    assert "- \\* not the whole benchmark" in part


@pytest.mark.parametrize(("scores", "shown"), [([[1]] * 4, "100.0"), ([[0]] * 4, "0.0")])
def test_all_right_and_none_right_still_have_an_interval(scores, shown):
    cell = grids(SUITE, {"m": {"b": result("b", scores)}})[0].rows[-1][5]
    low, high = (float(part) for part in cell.partition("[")[2].rstrip("]").split(","))
    assert cell.startswith(f"{shown} [")
    assert high - low > 10
