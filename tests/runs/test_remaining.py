"""The time that a run still needs counts all that is left of it, not training alone."""

import pytest

from copd.assemble.plan import make_plan
from copd.recipe.evaluation import sized
from copd.recipe.reading import load_recipe
from copd.runs.remaining import EVALUATING, MEASURING, SAVING, TRAINING, UNTRIED, Remaining

CHANGES = [
    "schedule={cycles: 2, rl_steps: 2, opd_steps: 1}",
    "evaluation={problems: 50, validation_problems: 10, pass_at: [1, 4]}",
    "checkpoint.every_steps=2",
]


def of(*changes):
    recipe = load_recipe("demo-paper", [*CHANGES, *changes])
    return Remaining(make_plan(recipe), sized(recipe.evaluation, {}), recipe.checkpoint)


def test_all_that_is_left_is_counted_step_by_step():
    times = of()
    assert times.validation == 3 * 3 * 10
    assert times.final == 5 * 3 * 50 * 5, "base, three branches and merge: once greedy, and four samples"
    left = times.left(0)
    assert left == {TRAINING: times.plan.rollouts, MEASURING: 4, EVALUATING: times.final + 2 * 90, SAVING: 4}
    assert times.left(5)[MEASURING] == times.left(5)[SAVING] == 1
    assert times.left(6) == {EVALUATING: times.final}


def test_what_the_end_of_a_step_asks_for_is_left_until_it_has_been_done():
    times = of()
    times.took(TRAINING, 10.0, times.plan.step_cost(5))
    assert times.left(6) == {EVALUATING: times.final + 90, MEASURING: 1, SAVING: 1}
    times.took(MEASURING, 3.0)
    assert times.left(6) == {EVALUATING: times.final + 90, SAVING: 1}
    times.took(EVALUATING, 9.0, times.validation)
    times.took(SAVING, 2.0)
    assert times.left(6) == {EVALUATING: times.final}
    assert times.left(5)[MEASURING] == 1, "the end of an earlier step has been done"


@pytest.mark.parametrize(("changes", "models"), [(["method=mixed"], 2), (["method=expert"], 4)])
def test_the_final_table_has_the_models_of_the_method(changes, models):
    changes = [*changes, "schedule={cycles: 1, rl_steps: 2, opd_steps: 0}"]
    assert of(*changes).final == models * 3 * 50 * 5
    assert of(*changes, "evaluation.models=product").final in (1 * 3 * 50 * 5, models * 3 * 50 * 5)


def test_seconds_come_from_what_each_work_has_taken():
    times = of()
    assert times.seconds(0) == {}
    times.took(TRAINING, 10.0, times.plan.step_cost(0))
    rate = 10.0 / times.plan.step_cost(0)
    untried = times.seconds(1)
    assert untried[EVALUATING] == pytest.approx(UNTRIED * rate * (times.final + 180))
    assert untried[MEASURING] == untried[SAVING] == 0
    times.took(MEASURING, 3.0)
    times.took(MEASURING, 5.0)
    times.took(EVALUATING, 9.0, times.validation)
    times.took(SAVING, 2.0)
    assert times.seconds(5) == {
        TRAINING: pytest.approx(rate * times.plan.step_cost(5)),
        MEASURING: 4.0,
        EVALUATING: pytest.approx(0.1 * (times.final + 90)),
        SAVING: 2.0,
    }


def test_a_stage_counts_by_its_parts_so_that_the_one_before_the_first_step_tells_the_same_pace():
    times = of()
    assert times.units(EVALUATING, 9) == times.validation == 3 * times.first_validation
    assert times.units(EVALUATING, 3) == times.first_validation
    assert (times.units(MEASURING, 9), times.units(MEASURING, 3)) == (1, pytest.approx(1 / 3))
    assert times.units(SAVING, 3) == 1


def test_the_record_of_a_run_tells_what_each_work_took():
    times = of()
    half = times.plan.step_cost(0) / 3
    events = [
        {"event": "behaviour", "step": -1, "seconds": 4.0},
        {"event": "accuracy", "step": -1, "seconds": 13.0},
        *({"event": "update", "step": 0, "phase": "rlvr", "seconds": 15.0 + number} for number in range(3)),
        {"event": "teaching", "seconds": 18.0},
        {"event": "behaviour", "step": 0, "seconds": 20.0},
        {"event": "warning", "seconds": 99.0},
        {"event": "update", "step": 1, "phase": "rlvr", "seconds": 1.0},  # of a process that went on
    ]
    for record in events:
        times.heard(record)
    left = times.seconds(1)
    assert left[TRAINING] == pytest.approx((2.0 + 1 + 1 + 1) / (4 * half) * times.left(1)[TRAINING])
    assert left[MEASURING] == pytest.approx((4.0 + 3.0) / (1 / 3 + 1) * 4)
    assert left[EVALUATING] == pytest.approx(9.0 / times.first_validation * (times.final + 180))
