"""What a page shows of a run, as plain values."""

import base64

import pytest

from copd.measure.evaluate import Estimate
from copd.report import contents
from copd.report.reading import read_run
from copd.runs.runlog import read_lines, write_lines
from copd.types import BASE


def test_bars_stand_where_the_interval_stands_on_the_tables_scale():
    groups = [("", [("a", "a", [Estimate(0.5, 0.42, 0.58), None]), ("b", "b", [Estimate(0.7, 0.65, 0.78)])])]
    scale = contents.share_scale(groups)
    assert scale == (40, 80)
    bar = contents.share_bar(Estimate(0.5, 0.42, 0.58), scale)
    assert (bar.low, bar.at, bar.high) == pytest.approx((5.0, 25.0, 45.0))


def test_bars_of_differences_share_one_scale_around_zero(make_run):
    found = read_run(make_run()).compared_with(BASE)
    bars = contents.difference_bars(found)
    widest = max(abs(end) for d in found.values() for end in (d.greedy.low, d.greedy.high))
    for place, d in found.items():
        assert bars[place].at == pytest.approx(50 + 50 * d.greedy.value / widest)
        assert -1e-9 <= bars[place].low <= bars[place].at <= bars[place].high <= 100 + 1e-9


def test_tables_hold_greedy_accuracy_and_each_pass_at_k(make_run):
    greedy, sampled = contents.accuracy_tables(read_run(make_run()))
    assert (greedy[0], sampled[0]) == ("Greedy accuracy", "pass@1")
    assert greedy[1] == ["text", "image", "average"]
    assert [(model, label) for model, label, _ in greedy[2]] == [
        ("base", "base"),
        ("text", "branch text"),
        ("image", "branch image"),
        ("merged", "merged"),
    ]
    assert [estimate.value for estimate in greedy[2][0][2]] == pytest.approx([0.4, 0.6, 0.5])


def test_matrices_over_time_are_strong_where_branches_are_unlike(make_run):
    overlap, divergence, accuracy = contents.matrices(read_run(make_run()))
    assert overlap[0] == "Top-10 overlap"
    assert "reach 0.10" in overlap[1]
    assert [(m.step, m.phase) for m in overlap[2]] == [(0, "start"), (2, "rlvr"), (4, "opd")]
    values = [m.rows[0][1][1] for m in overlap[2]]
    assert [value for value, _ in values] == pytest.approx([1.01, 0.81, 0.91])
    assert values[1][1] == pytest.approx(1.0)
    assert 0 < values[2][1] < values[1][1]
    assert overlap[2][0].rows[0][1][0][1] is None
    assert divergence[2][1].rows[1][1][0] == (pytest.approx(0.2), pytest.approx(1.0))
    assert accuracy[2][0].columns == ["text", "image"]
    assert all(strength is not None for m in accuracy[2] for _, cells in m.rows for _, strength in cells)


def test_a_single_branch_has_no_matrices_of_likeness(make_run):
    assert [name for name, *_ in contents.matrices(read_run(make_run(method="mixed")))] == [
        "Accuracy of each branch in each capability"
    ]


def test_an_approximate_divergence_says_so(make_run):
    folder = make_run()
    records = list(read_lines(folder / "metrics.jsonl"))
    assert "Approximate" not in contents.matrices(read_run(folder))[1][1]
    write_lines(folder / "metrics.jsonl", [{**r, "kl_is_exact": False} for r in records])
    assert "Approximate" in contents.matrices(read_run(folder))[1][1]


def test_of_very_many_points_in_time_some_are_shown_the_first_and_last_among_them(make_run):
    folder = make_run()
    points = [r for r in read_lines(folder / "metrics.jsonl") if r["event"] == "behaviour"]
    write_lines(folder / "metrics.jsonl", [{**points[1], "step": step} for step in range(41)])
    shown = [m.step for m in contents.matrices(read_run(folder))[0][2]]
    assert len(shown) == contents.MOST_MATRICES
    assert (shown[0], shown[-1]) == (1, 41)
    assert shown == sorted(set(shown))


def test_teachers_that_are_no_better_are_counted_after_training_began(make_run):
    assert contents.poor_teachers(read_run(make_run())) == (1, 1)


def test_the_ledger_is_shown_on_one_scale_and_adds_up(make_run):
    run = read_run(make_run())
    rows = contents.ledger_rows([run])
    assert [(row["branch"], row["phase"]) for row in rows] == [
        ("text", "rlvr"),
        ("text", "opd"),
        ("image", "rlvr"),
        ("image", "opd"),
    ]
    assert rows[0]["counts"] == [16, 1234, 0, 1000]
    assert rows[0]["seconds"] == [3.0, 0.5, 2.0]
    assert max(sum(row["shares"]) for row in rows) == pytest.approx(100)
    spent = contents.time_spent(run)
    assert spent["training"] == pytest.approx(4 * 5.5)
    assert spent["training"] + spent["rest"] == pytest.approx(spent["clock"]) == 21.0
    assert spent["critical_path"] == 8.0


def test_seconds_of_experts_that_were_taken_over_are_not_those_of_this_run(make_run):
    whole = contents.time_spent(read_run(make_run("whole", "merge_only")))
    taken = contents.time_spent(read_run(make_run("taken", "merge_only", experts=True)))
    cost = {"sampling": 2 * 3.0, "scoring": 2 * 0.5, "updating": 2 * 2.0}
    assert {name: whole[name] - taken[name] for name in cost} == cost
    assert whole["critical_path"] - taken["critical_path"] == 4.0
    assert taken["rest"] == whole["rest"] + sum(cost.values()) == taken["clock"] - taken["training"]
    assert (whole["adopted"], taken["adopted"]) == (0, 11.0)


def test_seconds_of_experts_that_an_unfinished_run_took_over_are_not_taken_from_it(make_run):
    spent = contents.time_spent(read_run(make_run("young", "merge_only", finished=False, experts=True)))
    assert [spent[name] for name in ("sampling", "scoring", "updating", "training", "critical_path")] == [0] * 5
    assert spent["rest"] == spent["clock"]
    assert spent["adopted"] == 11.0


def test_a_recipe_is_shown_field_by_field():
    recipe = {"seed": 0, "model": {"path": "x", "dtype": None}, "edges": [], "branches": {}}
    assert list(contents.flattened(recipe)) == [
        ("seed", "0"),
        ("model.path", "x"),
        ("model.dtype", "none"),
        ("edges", "[]"),
        ("branches", "{}"),
    ]


def answer(make_run, **changes) -> dict:
    return contents.sampled_problems(read_run(make_run(**changes)))[0]["answers"][1]


def test_samples_are_those_of_the_last_measurement_with_their_history(make_run):
    problems = contents.sampled_problems(read_run(make_run()))
    assert [(p["capability"], p["prompt"], p["answer"]) for p in problems] == [
        ("text", "usual sum: 3 8", "1"),
        ("image", "usual sum: 3 8", "1"),
    ]
    assert [a["branch"] for a in problems[0]["answers"]] == ["text", "image"]
    assert problems[0]["history"] == [(step, {"text": ("3 8;11", 0.0), "image": ("3 8;11", 0.0)}) for step in (2, 4)]
    assert [a["teacher"] for a in problems[0]["answers"]] == ["image", "text"]


def test_tokens_are_coloured_by_side_and_strength_of_the_fields_own_branch(make_run):
    tokens = answer(make_run)["tokens"]
    assert [t["side"] for t in tokens] == ["", "", "less", "", "more", ""]
    assert [t["strength"] for t in tokens] == [0, 0, 0.13, 0, 0.67, 0]
    assert [t["special"] for t in tokens] == [False] * 5 + [True]
    assert tokens[2]["said"] == "text -0.40 nats, itself -0.20"
    assert tokens[5]["said"] == ""


def test_only_disputed_tokens_are_given_in_numbers_in_the_order_of_the_text(make_run):
    assert answer(make_run)["disputed"] == [
        {"position": 3, "token": "8", "logp": -0.2, "delta": {"text": -0.4}},
        {"position": 5, "token": "11", "logp": -1.5, "delta": {"text": 2.0}},
    ]
    many = {"tokens": ["x"] * 30, "logp": [-1.0] * 30, "delta": {"text": [0.1 * i for i in range(30)]}}
    disputed = answer(make_run, name="many", **many)["disputed"]
    assert [d["position"] for d in disputed] == list(range(21, 31))


@pytest.mark.parametrize(("piece", "shown"), [("\n", "↵\n"), ("", "◌"), (" ", " ")])
def test_what_cannot_be_seen_has_a_sign(make_run, piece, shown):
    assert answer(make_run, tokens=[piece] * 6)["tokens"][0]["text"] == shown


def test_a_long_response_says_how_much_is_left_out(make_run):
    assert answer(make_run, tokens_in_all=1006)["left_out"] == 1000


def test_a_long_prompt_is_cut_and_says_so(make_run):
    (problem, *_) = contents.sampled_problems(read_run(make_run(prompt="x" * 5000)))
    assert problem["prompt"] == "x" * 1200 + " … (3,800 more characters)"


def test_pictures_are_embedded_up_to_a_bound_in_all(make_run):
    run = read_run(make_run())
    (problem,) = [p for p in contents.sampled_problems(run) if p["capability"] == "image"]
    (image,), (video,) = problem["images"], problem["videos"]
    assert base64.b64decode(image.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert len(video["frames"]) == video["frames_in_all"] == 4
    largest = max(path.stat().st_size for path in (run.folder / "media").iterdir())
    (problem,) = [p for p in contents.sampled_problems(run, largest) if p["capability"] == "image"]
    shown = [uri for uri in [*problem["images"], *problem["videos"][0]["frames"]] if uri]
    assert len(shown) < 5


def test_nothing_outside_the_run_is_read(make_run, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    run = read_run(make_run(images=["../secret.png", str(tmp_path / "secret.png")], videos=[]))
    for problem in contents.sampled_problems(run):
        assert problem["images"] == [None, None]
