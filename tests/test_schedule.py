"""Steps and phases, the points at which branches meet, and what a method costs."""

import pytest

from copd.schedule import Batches, Phase, Position, Schedule, copd_rollouts, equal_budget

R, O = Phase.RLVR, Phase.OPD  # noqa: E741

POSITIONS = [
    (0, Position(0, R, ends_phase=False, ends_cycle=False)),
    (2, Position(0, R, ends_phase=True, ends_cycle=False)),
    (3, Position(0, O, ends_phase=False, ends_cycle=False)),
    (4, Position(0, O, ends_phase=True, ends_cycle=True)),
    (5, Position(1, R, ends_phase=False, ends_cycle=False)),
    (9, Position(1, O, ends_phase=True, ends_cycle=True)),
]

SCHEDULES = [Schedule(2, 3, 2), Schedule(3, 1, 1), Schedule(2, 4, 0), Schedule(2, 0, 4), Schedule(1, 7, 5)]


def cut(schedule: Schedule, start: int, meet_every: int) -> list[tuple[Phase, list[int]]]:
    return [(stretch.phase, list(stretch.steps)) for stretch in schedule.stretches(start, meet_every)]


@pytest.mark.parametrize(("step", "position"), POSITIONS)
def test_position_of_a_step_by_hand(step, position):
    assert Schedule(cycles=2, rl_steps=3, opd_steps=2).position(step) == position


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_are_cycles_of_rlvr_then_opd(schedule):
    phases = [schedule.position(step).phase for step in range(schedule.steps)]
    assert phases == ([R] * schedule.rl_steps + [O] * schedule.opd_steps) * schedule.cycles
    cycles = [schedule.position(step).cycle for step in range(schedule.steps)]
    assert cycles == sorted(cycles)
    assert set(cycles) == set(range(schedule.cycles))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_phase_ends_where_the_next_step_is_of_another_phase_or_cycle(schedule):
    places = [schedule.position(step) for step in range(schedule.steps)]
    following = [*places[1:], Position(schedule.cycles, R, ends_phase=False, ends_cycle=False)]
    for here, after in zip(places, following, strict=True):
        assert here.ends_cycle == (here.cycle != after.cycle)
        assert here.ends_phase == ((here.cycle, here.phase) != (after.cycle, after.phase))


@pytest.mark.parametrize(
    ("start", "meet_every", "expected"),
    [
        (0, 100, [(R, [0, 1, 2]), (O, [3]), (O, [4]), (R, [5, 6, 7]), (O, [8]), (O, [9])]),
        (0, 4, [(R, [0, 1, 2]), (O, [3]), (O, [4]), (R, [5, 6, 7]), (O, [8]), (O, [9])]),
        (0, 2, [(R, [0, 1]), (R, [2]), (O, [3]), (O, [4]), (R, [5]), (R, [6, 7]), (O, [8]), (O, [9])]),
        (6, 100, [(R, [6, 7]), (O, [8]), (O, [9])]),
        (9, 1, [(O, [9])]),
        (10, 1, []),
    ],
)
def test_stretches_are_cut_after_opd_steps_at_phase_ends_and_at_meeting_points(start, meet_every, expected):
    assert cut(Schedule(2, 3, 2), start, meet_every) == expected


@pytest.mark.parametrize("meet_every", [1, 2, 3, 5, 25])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stretches_from_any_start_are_the_rest_of_the_same_stretches(schedule, meet_every):
    whole = cut(schedule, 0, meet_every)
    assert [step for _, steps in whole for step in steps] == list(range(schedule.steps))
    for start in range(schedule.steps):
        rest = [(phase, [step for step in steps if step >= start]) for phase, steps in whole]
        assert cut(schedule, start, meet_every) == [(phase, steps) for phase, steps in rest if steps]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stretch_ends_where_its_last_step_stands(schedule):
    for stretch in schedule.stretches(0, 2):
        assert stretch.ends == schedule.position(stretch.steps[-1])
        assert {schedule.position(step).phase for step in stretch.steps} == {stretch.phase}


@pytest.mark.parametrize(
    ("schedule", "branches", "edges", "expected"),
    [
        (Schedule(4, 15, 10), 3, 4, 4 * (25 * 3 * 128 + 10 * 4 * 64)),
        (Schedule(1, 1, 0), 2, 2, 256),
        (Schedule(1, 0, 1), 2, 2, 256 + 128),
        (Schedule(2, 3, 2), 1, 0, 10 * 128),
    ],
)
def test_rollouts_of_copd_by_hand(schedule, branches, edges, expected):
    assert copd_rollouts(schedule, Batches(16, 8, 8, 8), branches, edges) == expected


def test_rollouts_of_copd_match_counting_them_step_by_step():
    schedule, batches, branches, edges = Schedule(3, 4, 2), Batches(5, 3, 2, 7), 3, 6
    count = 0
    for step in range(schedule.steps):
        count += branches * 5 * 3
        if schedule.position(step).phase is O:
            count += edges * 2 * 7
    assert copd_rollouts(schedule, batches, branches, edges) == count


@pytest.mark.parametrize(
    ("rollouts", "per_step", "cycles", "expected"),
    [
        (48_640, 128, 4, Schedule(4, 95, 0)),
        (48_640, 384, 4, Schedule(4, 32, 0)),
        (1000, 100, 1, Schedule(1, 10, 0)),
        (1049, 100, 1, Schedule(1, 10, 0)),
        (1051, 100, 1, Schedule(1, 11, 0)),
        (10, 100, 3, Schedule(3, 1, 0)),
    ],
)
def test_equal_budget_by_hand(rollouts, per_step, cycles, expected):
    assert equal_budget(rollouts, per_step, cycles) == expected


@pytest.mark.parametrize("rollouts", range(1000, 5000, 137))
@pytest.mark.parametrize(("per_step", "cycles"), [(64, 1), (64, 4), (100, 3)])
def test_equal_budget_is_within_half_a_cycles_step(rollouts, per_step, cycles):
    spent = equal_budget(rollouts, per_step, cycles).steps * per_step
    assert abs(spent - rollouts) <= per_step * cycles / 2
