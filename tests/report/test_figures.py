"""Curves by their lines, and figures as the page needs them."""

import re
from functools import partial

import pytest
from matplotlib.figure import Figure

from copd.report import figures
from copd.report.reading import read_run
from copd.report.svg import MARKERS, SERIES, VARIABLES, as_label, series


def lines(draw, records) -> dict:
    figure = Figure()
    assert draw(figure, records)
    return {line.get_label(): line for line in figure.gca().get_lines() if not line.get_label().startswith("_child")}


@pytest.fixture
def records(make_run):
    return read_run(make_run()).records


def test_overlap_and_divergence_are_averaged_over_both_directions(records):
    (overlap,) = lines(figures.draw_overlap, records).values()
    assert list(overlap.get_xdata()) == [0, 2, 4]
    assert list(overlap.get_ydata()) == pytest.approx([1.01, 0.81, 0.91])
    skewed = [
        {**r, "symmetric_kl": {"text": {"text": 0, "image": 0.1}, "image": {"text": 0.3, "image": 0}}}
        for r in records
        if r["event"] == "behaviour"
    ]
    (divergence,) = lines(figures.draw_divergence, skewed).values()
    assert list(divergence.get_ydata()) == pytest.approx([0.2] * 3)


def test_a_pair_that_was_not_finite_leaves_a_gap(records):
    points = [dict(r) for r in records if r["event"] == "behaviour"]
    points[1]["symmetric_kl"] = {"text": {"text": 0, "image": None}, "image": {"text": 0.3, "image": 0}}
    (line,) = lines(figures.draw_divergence, points).values()
    assert [y == y for y in line.get_ydata()] == [True, False, True]


def test_accuracy_has_a_line_for_the_own_capability_and_one_for_the_average(records):
    found = lines(figures.draw_accuracy, records)
    own = ["text, own capability", "text, average", "image, own capability", "image, average"]
    assert list(found) == [*own, "base, average"]
    assert list(found["text, own capability"].get_ydata()) == [0.7, 0.7]
    assert list(found["image, average"].get_ydata()) == pytest.approx([0.6, 0.6])


def test_a_branch_of_all_capabilities_has_a_line_for_each(make_run):
    found = lines(figures.draw_accuracy, read_run(make_run(method="mixed")).records)
    assert list(found) == ["mixed, text", "mixed, image", "mixed, average", "base, average"]
    assert len({line.get_color() for line in found.values()}) == 4


def test_the_base_is_a_level_line_of_each_capability_where_it_was_measured(records):
    figure = Figure()
    figures.draw_accuracy(figure, records)
    level = [line for line in figure.gca().get_lines() if line.get_label().startswith("_child")]
    assert [line.get_ydata()[0] for line in level] == pytest.approx([0.7, 0.8])
    assert [line.get_color() for line in level] == [SERIES[0], SERIES[1]]
    later = [r for r in records if r["step"] >= 0]
    assert "base, average" not in lines(figures.draw_accuracy, later)


def test_a_diagnostic_is_that_of_the_own_rollouts_else_the_mean_over_the_lessons():
    updates = [
        {"event": "update", "step": 0, "branch": "a", "native/entropy": 0.5, "from_b/entropy": 9.0, "grad_norm": 2.0},
        {"event": "update", "step": 1, "branch": "a", "from_b/entropy": 1.0, "from_c/entropy": 2.0, "grad_norm": 4.0},
        {"event": "update", "step": 2, "branch": "a", "from_b/entropy": None, "grad_norm": None},
    ]
    (entropy,) = lines(partial(figures.draw_diagnostic, name="entropy"), updates).values()
    assert list(entropy.get_ydata()) == [0.5, 1.0]
    (norm,) = lines(partial(figures.draw_diagnostic, name="grad_norm"), updates).values()
    assert list(norm.get_ydata()) == [2.0, 3.0]


def test_a_merge_that_was_measured_has_a_figure_of_its_own(make_run):
    run = read_run(make_run())
    merged = [cell.as_record() for cell in run.table if cell.model == "merged"]
    records = [
        {**record, "table": [*record["table"], *merged]} if record["event"] == "accuracy" else record
        for record in run.records
    ]
    found = lines(figures.draw_merge, records)
    assert list(found) == ["text", "image", "average"]
    assert list(found["text"].get_ydata()) == [0.6, 0.6]
    assert not any("merged" in name for name in lines(figures.draw_accuracy, records))
    figure = Figure()
    assert not figures.draw_merge(figure, run.records)
    figures.draw_merge(figure, records)
    level = [line for line in figure.gca().get_lines() if line.get_label().startswith("_child")]
    assert [line.get_color() for line in level] == [found[name].get_color() for name in found]


def test_rewards_are_a_mean_over_five_steps():
    updates = [{"event": "update", "step": s, "branch": "a", "native/reward": float(s)} for s in range(7)]
    (reward,) = lines(figures.draw_reward, updates).values()
    assert list(reward.get_ydata()) == [0, 0.5, 1, 1.5, 2, 3, 4]


def test_lessons_break_off_between_the_phases_and_are_not_averaged_across():
    def update(step, value):
        return {"event": "update", "step": step, "branch": "image", "from_text/delta_abs": value}

    (lesson,) = lines(figures.draw_lessons, [update(2, 1.0), update(3, 3.0), update(9, 7.0)]).values()
    assert lesson.get_label() == "text to image"
    assert list(lesson.get_xdata()) == [3, 4, 9, 10]
    assert lesson.get_ydata() == pytest.approx([1.0, 2.0, float("nan"), 7.0], nan_ok=True)


def test_a_curve_that_is_zero_throughout_has_no_axis_below_zero():
    updates = [{"event": "update", "step": step, "branch": "a", "native/truncated_rate": 0.0} for step in range(3)]
    drawn = figures.figure_of(partial(figures.draw_diagnostic, name="truncated_rate"), updates, "truncated")
    assert "−" not in drawn


def test_a_level_line_at_zero_has_no_axis_below_zero_either():
    cells = [{"model": "a", "capability": name, "greedy": {"value": 0.0}} for name in ("a", "average")]
    measured = [{"event": "accuracy", "step": step, "table": cells} for step in (-1, 0)]
    alike = {"event": "behaviour", "step": -1, "phase": "start", "accuracy": {"a": {"a": 0.0}}}
    drawn = figures.figure_of(figures.draw_accuracy, [alike, *measured], "accuracy")
    assert "−" not in drawn


def test_a_single_step_is_marked_as_a_whole_number():
    update = {"event": "update", "step": 0, "branch": "a", "native/reward": 0.5}
    drawn = figures.figure_of(figures.draw_reward, [update], "reward")
    assert ">1<" in drawn
    assert "0.98" not in drawn
    assert "1.02" not in drawn


@pytest.mark.parametrize("name", ["overlap", "divergence", "accuracy", "merge", "reward", "signal", "lessons"])
def test_without_records_nothing_is_drawn(name):
    assert figures.figure_of(getattr(figures, f"draw_{name}"), [], "title") is None


def test_rlvr_is_shaded_from_the_end_of_the_phase_before(records):
    axes = Figure().add_subplot()
    figures.shade_rlvr(axes, records)
    (patch,) = axes.patches
    assert (patch.get_x(), patch.get_width()) == (0, 2)


def test_nothing_is_shaded_where_all_is_rlvr(make_run):
    axes = Figure().add_subplot()
    figures.shade_rlvr(axes, read_run(make_run(method="expert")).records)
    assert not axes.patches


def test_a_figure_follows_the_theme_and_keeps_its_text(records):
    svg = figures.figure_of(figures.draw_overlap, records, "Top <b> overlap")
    assert svg.startswith("<svg")
    assert 'aria-label="Top &lt;b&gt; overlap"' in svg
    assert "var(--s0)" in svg
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
    assert ">text, image</text>" in svg
    assert "between branches" not in svg
    assert not re.search(r"<svg[^>]* (width|height)=", svg)


def test_the_same_figure_is_the_same_text_and_figures_share_no_ids(records):
    once, again = (figures.figure_of(figures.draw_overlap, records, "a") for _ in range(2))
    other = figures.figure_of(figures.draw_overlap, records, "b")
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (once, other)]
    assert once == again
    assert ids[0]
    assert not ids[0] & ids[1]


def test_series_differ_in_colour_and_mark_and_every_colour_has_its_variable():
    first = [series(number) for number in range(12)]
    assert len({(s["color"], s["marker"]) for s in first}) == 12
    assert len({s["color"] for s in first[:6]}) == len({s["marker"] for s in first[:6]}) == 6
    assert set(SERIES) <= set(VARIABLES)
    assert len(MARKERS) == 6


@pytest.mark.parametrize(("name", "label"), [("a$b$", r"a\$b\$"), ("_x", " _x"), ("plain", "plain")])
def test_names_are_printed_as_they_are(name, label):
    assert as_label(name) == label


def test_a_long_legend_makes_the_figure_taller_and_the_plot_no_smaller():
    def plot_of(branches):
        cells = [
            {"model": name, "capability": c, "greedy": {"value": 0.5}} for name in branches for c in (name, "average")
        ]
        alike = {"event": "behaviour", "step": -1, "phase": "start", "accuracy": {name: {} for name in branches}}
        figure = Figure(figsize=figures.SIZE, layout="constrained")
        figures.draw_accuracy(
            figure, [alike, *({"event": "accuracy", "step": step, "table": cells} for step in (0, 1))]
        )
        figures.finished_figure(figure, figure.gca(), "accuracy")
        return figure.gca().get_window_extent().height

    assert plot_of(["one", "two", "three", "four", "five"]) > 0.85 * plot_of(["one"])
