"""When models are validated, and which step was the best."""

import pytest

from copd.recipe.sections import EvaluationSection
from copd.runs.validations import Best, every_steps, validation_due
from copd.schedule import Schedule


def validated(settings, schedule):
    ends = enumerate(map(schedule.position, range(schedule.steps)), start=1)
    return [done for done, here in ends if validation_due(settings, here, done)]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, [3, 6]), ({"every_cycles": 2}, [6]), ({"every_steps": 2}, [2, 3, 4, 6]), ({"every_steps": 9}, [3, 6])],
)
def test_validations_come_at_ends_of_cycles_and_every_so_many_steps(settings, steps):
    asked, schedule = EvaluationSection(**settings), Schedule(cycles=2, rl_steps=2, opd_steps=1)
    assert validated(asked, schedule) == steps
    assert set(every_steps(asked, schedule)) <= set(steps)


def event(step, **averages):
    half = {"low": 0.0, "high": 1.0}
    cells = [(model, name, value) for model, value in averages.items() for name in ("text", "average")]
    table = [
        {"model": model, "capability": name, "problems": 4, "greedy": {"value": value, **half}, "pass_at": {}}
        for model, name, value in cells
    ]
    return {"event": "accuracy", "step": step, "table": table}


def best(product, *seen):
    found = Best(product)
    for each in seen:
        found.see(each)
    return found.steps


def test_the_best_step_is_that_of_the_product_and_of_equal_ones_the_first():
    seen = [event(step, text=share, merged=value) for step, share, value in ((0, 0.1, 0.5), (1, 0.9, 0.4), (2, 0, 0.5))]
    assert best("merged", *seen) == 1
    assert best(None, event(0, a=0.2, b=0.4), event(1, a=0.1, b=0.6), event(2, a=0.0, b=0.0)) == 2


def test_a_step_whose_branches_could_not_be_merged_is_never_the_best():
    seen = [event(0, text=0.9), event(1, text=0.1, merged=0.0), event(2, text=0.9)]
    assert best("merged", *seen) == 2
    assert best("merged", seen[0]) is None


def test_the_base_and_other_events_are_no_best_step():
    assert best("merged", event(-1, merged=1.0), {"event": "behaviour", "step": 3}) is None
    assert best("merged", event(-1, merged=1.0), event(4, merged=0.0)) == 5
