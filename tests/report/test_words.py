"""Sentences that claim what the intervals bear, and no more."""

import json

import pytest

from copd.measure.compare import Difference
from copd.measure.evaluate import Estimate
from copd.report import words
from copd.report.reading import read_run, read_runs
from copd.runs.runlog import read_lines, write_lines


def told(run) -> str:
    return "\n".join(words.verdict(read_run(run))).replace("\u00a0", " ").replace("\u2212", "-")


def set_answers(run, model, capability, right):
    """Change which problems a model has answered, as the file holds it."""
    records = list(read_lines(run / "answers.jsonl"))
    for record in records:
        if (record["model"], record["capability"]) == (model, capability):
            record["greedy_P"] = [float(i in right) for i in range(len(record["greedy_P"]))]
    write_lines(run / "answers.jsonl", records)


def test_a_merged_model_is_compared_with_the_base_and_with_the_branches_in_their_capabilities(make_run):
    first, by_capability, branches, seed = told(make_run()).split("\n")
    assert first.startswith("The merged model answers 61.0 % [")
    assert "of the test problems right on average over 2 capabilities, the base 50.0 % [" in first
    assert "On the same problems that is +11.0 points [+" in first
    assert first.endswith(": a gain.")
    assert by_capability == "Against the base it gains in text (+20.0) and shows no clear difference in image (+2.0)."
    assert branches == (
        "In its own capability a single branch is ahead of the merged model in text (+10.0 points) and image "
        "(+18.0 points)."
    )
    assert seed.startswith("One run with one seed (3): the intervals are 95 % over the test problems")


def test_a_loss_is_called_a_loss(make_run):
    run = make_run()
    set_answers(run, "merged", "text", range(10))
    set_answers(run, "merged", "image", range(10))
    first, by_capability, *_ = told(run).split("\n")
    assert "-40.0 points [-" in first
    assert first.endswith(": a loss.")
    assert by_capability == "Against the base it loses in text (-30.0) and image (-50.0)."


def test_what_the_problems_cannot_show_is_not_claimed(make_run):
    run = make_run()
    set_answers(run, "merged", "text", range(1, 42))
    set_answers(run, "merged", "image", range(60))
    assert "+0.5 points [" in told(run)
    assert "no difference that these problems could show" in told(run)
    assert "a gain" not in told(run)
    assert "gains in" not in told(run)


def test_a_merged_model_ahead_of_its_branches_is_said_so(make_run):
    run = make_run()
    set_answers(run, "merged", "text", range(100))
    set_answers(run, "image", "image", range(62))
    said = told(run)
    assert "The merged model is ahead of the branch that was trained on the capability in text (-30.0 points)." in said
    assert "a single branch is ahead" not in said


def test_experts_are_told_in_their_own_capabilities_and_on_average(make_run):
    own, average, _ = told(make_run(method="expert")).split("\n")
    assert own.startswith(
        "Each branch in its own capability: in text 70.0 % against 40.0 % for the base (+30.0 points ["
    )
    assert "in image 80.0 % against 60.0 % for the base" in own
    assert average == "On average over all capabilities: text 60.0 % and image 60.0 %; the base 50.0 %."


def test_the_name_of_a_branch_keeps_its_capitals_at_the_beginning_of_a_sentence(make_run):
    run = make_run(method="static_opd")
    for name in ("metrics.jsonl", "answers.jsonl"):
        (run / name).write_text((run / name).read_text().replace('"image"', '"Image-QA"'))
    assert told(run).startswith("Branch Image-QA answers ")


def test_without_answers_nothing_is_compared_one_by_one(make_run):
    said = told(make_run(answers=False))
    assert "61.0 %" in said
    assert "not compared one by one" in said
    assert "points" not in said


def compared(runs) -> list[str]:
    from copd.report.comparison import comparison

    return [s.replace("\u00a0", " ").replace("\u2212", "-") for s in comparison(read_runs(runs))["verdict"]]


def test_runs_are_placed_beside_the_first_one_on_average_and_in_their_own_capabilities(undrawn_here, make_run):
    runs = [make_run("mine"), make_run("experts", "expert"), make_run("mixed", "mixed", seed=4)]
    found, ahead, unclear, own, budget, seeds = compared(runs)
    assert found.startswith("On average over the capabilities: mine (merged) 61.0 % [")
    assert "experts (branch image) 60.0 % [" in found
    assert "mixed 75.0 % [" in found
    assert ahead.startswith("Ahead of mine (merged) on the same problems, on average: mixed +14.0 points [+")
    assert unclear.startswith("Not clearly apart from mine (merged) on the same problems, on average: experts (branch")
    assert own.startswith(
        "Ahead of mine (merged) on the same problems, each in its own capability: experts (branch text) +10.0"
    )
    assert budget == "The runs were not made with equally many rollouts: mine 64, experts 64 and mixed 32."
    assert seeds.endswith("they say nothing about seeds other than 3 and 4.")


def test_equal_budgets_are_said_to_be_equal(undrawn_here, make_run):
    assert "All runs were made with about equally many rollouts: a 64 and b 64." in compared(
        [make_run("a"), make_run("b")]
    )


def test_unfinished_runs_are_named_and_not_compared(undrawn_here, make_run):
    (said,) = compared([make_run("a"), make_run("b", finished=False)])
    assert said.startswith("Not finished: b.")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0.00"), (-0.004, "0.00"), (-0.005, "\u22120.01"), (1.5, "+1.50"), (-2.0, "\u22122.00"), (None, "\u2013")],
)
def test_a_signed_number_has_a_true_minus_and_zero_no_sign(value, said):
    assert words.signed(value) == said


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [(1, "branch", "1 branch"), (3, "branch", "3 branches"), (0, "step", "0 steps"), (1200, "token", "1,200 tokens")],
)
def test_things_are_counted_in_singular_and_plural(number, thing, said):
    assert words.counted(number, thing) == said


def test_lists_are_read_aloud():
    assert [words.listed(items) for items in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_a_difference_is_clear_only_where_its_interval_leaves_out_zero():
    ends = [(-0.1, -0.01), (-0.1, 0.0), (0.0, 0.1), (0.01, 0.1), (-0.1, 0.1)]
    found = [Difference("a", "b", "f", Estimate((low + high) / 2, low, high)).is_clear for low, high in ends]
    assert found == [True, False, False, True, False]


def test_runs_that_were_measured_on_validation_problems_say_so(undrawn_here, make_run):
    runs = [make_run("mine"), make_run("mixed", "mixed")]
    for run in runs:
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["recipe"].setdefault("evaluation", {})["split"] = "validation"
        (run / "manifest.json").write_text(json.dumps(manifest))
    assert compared(runs)[-1].startswith("The intervals are 95 % over the validation problems; they say nothing")
