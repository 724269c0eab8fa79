"""Several runs side by side."""

import base64
import json

import pytest

from copd.report import contents
from copd.report.comparison import _divergence, _reward, comparison
from copd.report.reading import read_runs
from copd.runs.runlog import read_lines, write_lines

SHADED = "fill: var(--shade); opacity: 0.2"


@pytest.fixture
def runs(undrawn_here, make_run):
    """The runs of `side_by_side`, to be changed."""
    return [make_run("mine"), make_run("experts", "expert"), make_run("mixed", "mixed")]


def compared(folders):
    """What a page of runs that are changed says."""
    return comparison(read_runs(folders))


def test_a_base_that_answered_alike_is_shown_once(side_by_side):
    groups = side_by_side["groups"]
    assert [(name, [label for _, label, _ in rows]) for name, rows in groups] == [
        ("mine", ["base", "branch text", "branch image", "merged"]),
        ("experts", ["branch text", "branch image"]),
        ("mixed", ["mixed"]),
    ]


def test_a_base_of_other_answers_is_shown_again(runs):
    records = list(read_lines(runs[2] / "answers.jsonl"))
    records[0]["greedy_P"][0] = 0.0
    write_lines(runs[2] / "answers.jsonl", records)
    assert [label for _, label, _ in compared(runs)["groups"][2][1]] == ["base", "mixed"]


def test_models_are_paired_with_the_base_and_with_what_the_first_run_was_made_for(side_by_side):
    (base, to_base, _), (merged, to_merged, groups) = side_by_side["against"]
    assert (base, merged) == ("mine (base)", "mine (merged)")
    assert to_base["mine (merged)", "text"].greedy.value == pytest.approx(0.2)
    assert to_merged["mixed", "average"].greedy.value == pytest.approx(0.75 - 0.61)
    assert to_merged["experts (branch image)", "image"].greedy.value == pytest.approx(0.18)
    assert "merged" not in [label for _, label, _ in groups[0][1]]


@pytest.mark.parametrize("method", ["static_opd", "mopd", "merge_only"])
def test_a_run_of_frozen_teachers_stands_beside_others(runs, make_run, method):
    page = compared([*runs, make_run("frozen", method)])
    assert [name for name, _ in page["groups"]] == ["mine", "experts", "mixed", "frozen"]
    assert {"static_opd": "frozen (branch image)", "mopd": "frozen (student)"}.get(method, "frozen (merged)") in page[
        "products"
    ]


def test_steps_without_a_native_part_have_no_reward(make_run):
    (run,) = read_runs([make_run("frozen", "mopd")])
    assert _reward(run) == [(1, 0.25), (2, 0.25)]


def test_pairs_that_were_not_finite_are_left_out(make_run):
    folder = make_run()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = [record for record in records if record["event"] == "behaviour"]
    points[1]["symmetric_kl"] = {"text": {"text": 0.0, "image": None}, "image": {"text": 0.3, "image": 0.0}}
    points[2]["symmetric_kl"] = {"text": {"text": None, "image": None}, "image": {"text": None, "image": 0.0}}
    write_lines(folder / "metrics.jsonl", records)
    (run,) = read_runs([folder])
    assert _divergence(run) == [(0, 0.0), (2, 0.3)]


def test_other_problems_are_not_paired(runs):
    records = list(read_lines(runs[2] / "answers.jsonl"))
    write_lines(runs[2] / "answers.jsonl", [{**r, "problems": "others"} for r in records])
    for _, found, groups in compared(runs)["against"]:
        assert not any(model.startswith("mixed") for model, _ in found)
        assert [name for name, _ in groups] == ["mine", "experts"]


def test_runs_without_answers_stand_side_by_side_unpaired(undrawn_here, make_run):
    page = compared([make_run("a", answers=False), make_run("b", answers=False)])
    assert page["against"] == []
    assert [len(rows) for _, rows in page["groups"]] == [4, 4]


def test_curves_of_all_runs_lie_over_rollouts(side_by_side):
    assert side_by_side["by_rollouts"]
    figures = {title: str(drawing) for title, drawing, _ in side_by_side["figures"]}
    assert list(figures) == ["Own capability", "All capabilities", "Reward", "Overlap", "Symmetric KL"]
    for title, drawing in figures.items():
        assert "thousand rollouts" in drawing
        drawn = [name for name in ("mine", "experts", "mixed") if f">{name}</text>" in drawing]
        assert drawn == ["mine", "experts", "mixed"][: 2 if title in ("Overlap", "Symmetric KL") else 3]


def test_an_unfinished_run_is_marked_and_nothing_is_paired_with_its_validation(runs, make_run):
    page = compared([*runs, make_run("young", finished=False)])
    assert page["against"] == []
    assert [name for name, _ in page["groups"]][-2:] == ["mixed", "young (not finished: validation)"]


def test_a_run_that_has_no_model_in_a_table_yet_stands_beside_others(undrawn_here, make_run):
    young, old = make_run("young", finished=False), make_run("experts", "expert")
    write_lines(young / "metrics.jsonl", list(read_lines(young / "metrics.jsonl"))[:1])
    page = compared([young, old])
    assert page["groups"][0] == ("young (not finished: validation)", [])
    assert page["products"] == ["experts (branch text)", "experts (branch image)"]
    assert page["against"] == []


def test_with_an_unfinished_run_curves_lie_over_steps(runs, make_run):
    page = compared([*runs, make_run("young", finished=False)])
    assert not page["by_rollouts"]
    assert all("('step', " in drawing.unescape() for _, drawing, _ in page["figures"])


def test_all_ledgers_are_on_one_scale(side_by_side):
    ledger = side_by_side["ledger"]
    assert [row["run"] for row in ledger] == ["mine"] * 4 + ["experts"] * 2 + ["mixed"]
    assert [sum(row["shares"]) == pytest.approx(100) for row in ledger] == [False] * 4 + [True] * 3


def test_each_run_has_its_own_figures_with_phases_shaded_its_matrices_and_its_samples(side_by_side):
    mine, experts, mixed = side_by_side["each"]
    figures = {title: str(drawing) for title, drawing, _ in [*mine["behaviour_figures"], *mine["training_figures"]]}
    assert list(figures) == [
        "Top-10 overlap", "Symmetric KL", "Validation accuracy", "Reward", "Groups with signal", "Lessons",
    ]  # fmt: skip
    assert all(drawing.count(SHADED) == 1 for drawing in figures.values())
    assert not any(SHADED in str(drawing) for _, drawing, _ in experts["training_figures"])
    assert [name for name, *_ in mine["matrices"]][:2] == ["Top-10 overlap", "Symmetric KL"]
    assert [matrix.step for matrix in mine["matrices"][0][2]] == [0, 2, 4]
    assert [len(own["matrices"]) for own in (mine, experts, mixed)] == [3, 3, 1]
    assert [len(own["problems"]) for own in (mine, experts, mixed)] == [2, 2, 2]
    assert mine["coloured"]


def test_the_room_for_pictures_is_shared_out_among_the_runs(runs, monkeypatch):
    def pictures():
        for own in compared(runs)["each"]:
            (shown,) = [p for p in own["problems"] if p["capability"] == "image"]
            yield [*shown["images"], *shown["videos"][0]["frames"]]

    one, *_ = pictures()
    room = len(runs) * sum(len(base64.b64decode(uri.partition(",")[2])) for uri in one)
    for most, left_out in ((room, False), (room - len(runs), True)):
        monkeypatch.setattr(contents, "MOST_MEDIA_BYTES", most)
        assert [None in uris for uris in pictures()] == [left_out] * 3


def test_fields_of_the_recipes_that_differ_are_marked(runs):
    manifest = json.loads((runs[1] / "manifest.json").read_text())
    manifest["recipe"]["extra"] = {"new": 1}
    (runs[1] / "manifest.json").write_text(json.dumps(manifest))
    settings = {path: (values, differs) for path, values, differs in compared(runs)["settings"]}
    assert settings["method"] == (["copd", "expert", "mixed"], True)
    assert settings["seed"] == (["3", "3", "3"], False)
    assert settings["extra.new"] == (["–", "1", "–"], True)
    assert settings["versions.torch"][1] is False
