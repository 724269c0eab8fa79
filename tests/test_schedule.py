"""Steps and phases, the points at which branches meet, and what a method costs."""

import pytest

from copd.schedule import Costs, Phase, Position, Schedule

R, O, P, C = Phase.RLVR, Phase.OPD, Phase.REPLAY, Phase.CONSOLIDATION  # noqa: E741


def at(cycle: int, phase: Phase, *true: str) -> Position:
    """A position with these of its four marks true."""
    marks = dict.fromkeys(("begins_phase", "begins_cycle", "ends_phase", "ends_cycle"), False)
    return Position(cycle, phase, **marks | dict.fromkeys(true, True))


POSITIONS = [
    (0, at(0, R, "begins_phase", "begins_cycle")),
    (2, at(0, R, "ends_phase")),
    (3, at(0, O, "begins_phase")),
    (4, at(0, O, "ends_phase", "ends_cycle")),
    (5, at(1, R, "begins_phase", "begins_cycle")),
    (9, at(1, O, "ends_phase", "ends_cycle")),
]

SCHEDULES = [Schedule(2, 3, 2), Schedule(3, 1, 1), Schedule(2, 4, 0), Schedule(2, 0, 4), Schedule(1, 7, 5)]
MERGING = [
    Schedule(2, 3, 2, merge_steps=4),
    Schedule(3, 1, 0, merge_steps=2, first_rl_steps=4, restart=True),
    Schedule(2, 2, 1, merge_steps=1, restart=True),
    Schedule(2, 0, 2, merge_steps=3, first_rl_steps=2),
    Schedule(3, 2, 1, first_rl_steps=5),
    Schedule(1, 4, 0, merge_steps=3),
    Schedule(2, 2, 1, merge_steps=1, restart=True, replay_steps=3),
]


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


@pytest.mark.parametrize(
    ("schedule", "phases"),
    [
        (MERGING[0], "RRROO RRROOCCCC"),
        (MERGING[1], "RRRRCC RCC RCC"),
        (MERGING[2], "RROC RROC"),
        (MERGING[3], "RROO OOCCC"),
        (MERGING[4], "RRRRRO RRO RRO"),
        (MERGING[5], "RRRRCCC"),
        (MERGING[6], "RROPPPC RROPPPC"),
    ],
)
def test_a_first_cycle_of_its_own_length_and_consolidation_by_hand(schedule, phases):
    named = {R: "R", O: "O", P: "P", C: "C"}
    positions = [schedule.position(step) for step in range(schedule.steps)]
    assert (
        "".join(named[p.phase] + " " * (p.ends_cycle and step + 1 < len(positions)) for step, p in enumerate(positions))
        == phases
    )


@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_a_phase_ends_where_the_next_step_is_of_another_phase_or_cycle(schedule):
    places = [schedule.position(step) for step in range(schedule.steps)]
    for here, after in zip(places, [*places[1:], at(schedule.cycles, R)], strict=True):
        assert here.ends_cycle == (here.cycle != after.cycle)
        assert here.ends_phase == ((here.cycle, here.phase) != (after.cycle, after.phase))


@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_a_phase_begins_where_another_has_ended(schedule):
    places = [schedule.position(step) for step in range(schedule.steps)]
    for before, here in zip([at(-1, R, "ends_phase", "ends_cycle"), *places], places, strict=False):
        assert here.begins_cycle == before.ends_cycle
        assert here.begins_phase == before.ends_phase


@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_branches_make_updates_in_rlvr_and_opd_and_rest_while_they_consolidate(schedule):
    phases = [schedule.position(step).phase for step in range(schedule.steps)]
    for step in range(schedule.steps + 1):
        assert schedule.updates_before(step) == sum(phase not in (P, C) for phase in phases[:step])
    assert [schedule.steps_in(phase) for phase in Phase] == [phases.count(phase) for phase in Phase]


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


def test_branches_also_meet_after_given_numbers_of_steps():
    stretches = Schedule(1, 7, 0).stretches(0, 100, meet_after=(2, 5))
    assert [list(stretch.steps) for stretch in stretches] == [[0, 1], [2, 3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (Schedule(2, 3, 2), 3),
        (Schedule(2, 4, 0), 8),
        (Schedule(2, 0, 4), 0),
        (Schedule(1, 4, 0, merge_steps=3), 4),
        (Schedule(2, 4, 0, merge_steps=3), 8),
        (Schedule(2, 4, 0, merge_steps=3, first_rl_steps=6, restart=True), 6),
        (Schedule(2, 4, 0, restart=True), 4),
        (Schedule(2, 0, 3, first_rl_steps=2), 2),
    ],
)
def test_branches_are_experts_until_they_are_taught_or_begin_from_a_merge(schedule, steps):
    assert schedule.steps_before_exchange == steps


@pytest.mark.parametrize("meet_every", [1, 2, 3, 5, 25])
@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_stretches_from_any_start_are_the_rest_of_the_same_stretches(schedule, meet_every):
    whole = cut(schedule, 0, meet_every)
    assert [step for _, steps in whole for step in steps] == list(range(schedule.steps))
    for start in range(schedule.steps):
        rest = [(phase, [step for step in steps if step >= start]) for phase, steps in whole]
        assert cut(schedule, start, meet_every) == [(phase, steps) for phase, steps in rest if steps]


@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_a_stretch_lies_in_one_phase(schedule):
    for stretch in schedule.stretches(0, 2):
        assert {schedule.position(step).phase for step in stretch.steps} == {stretch.phase}


@pytest.mark.parametrize(
    ("schedule", "costs", "expected"),
    [
        (Schedule(4, 15, 10), Costs(3 * 128, 3 * 128 + 4 * 64), 4 * (25 * 3 * 128 + 10 * 4 * 64)),
        (Schedule(1, 1, 0), Costs(256, 999), 256),
        (Schedule(1, 0, 1), Costs(999, 384), 384),
        (Schedule(2, 3, 2, merge_steps=5), Costs(10, 20, 7), 2 * 3 * 10 + 2 * 2 * 20 + 5 * 7),
        (Schedule(2, 3, 2, merge_steps=5, first_rl_steps=4, restart=True), Costs(10, 20, 7), 7 * 10 + 4 * 20 + 10 * 7),
    ],
)
def test_rollouts_of_a_schedule_by_hand(schedule, costs, expected):
    assert costs.of(schedule) == expected


@pytest.mark.parametrize("schedule", [*SCHEDULES, *MERGING])
def test_rollouts_of_a_schedule_are_those_counted_step_by_step(schedule):
    costs = Costs(15, 57, 8)
    count = sum({R: 15, O: 57, P: 0, C: 8}[schedule.position(step).phase] for step in range(schedule.steps))
    assert costs.of(schedule) == count


@pytest.mark.parametrize(
    ("rollouts", "costs", "schedule", "expected"),
    [
        (48_640, Costs(128, 0), Schedule(4, 1, 0), Schedule(4, 95, 0)),
        (48_640, Costs(384, 0), Schedule(4, 1, 0), Schedule(4, 32, 0)),
        (1049, Costs(100, 0), Schedule(1, 1, 0), Schedule(1, 10, 0)),
        (1051, Costs(100, 0), Schedule(1, 1, 0), Schedule(1, 11, 0)),
        (10, Costs(100, 0), Schedule(3, 1, 0), Schedule(3, 1, 0)),
        (72_960, Costs(576, 288), Schedule(1, 60, 40), Schedule(1, 95, 63)),
        (1, Costs(576, 288), Schedule(2, 3, 2), Schedule(2, 1, 1)),
        (2000, Costs(10, 20), Schedule(2, 5, 0), Schedule(2, 100, 0)),
        (
            1030,  # ten times 4 + 3 steps of 10, 2 of 6, 3 of 7
            Costs(10, 6, 7),
            Schedule(2, 3, 1, merge_steps=3, first_rl_steps=4),
            Schedule(2, 30, 10, merge_steps=30, first_rl_steps=40),
        ),
        (
            1,
            Costs(10, 6, 7),
            Schedule(2, 0, 0, merge_steps=3, first_rl_steps=4, restart=True),
            Schedule(2, 0, 0, 1, 1, True),
        ),
    ],
)
def test_a_schedule_scaled_to_rollouts_by_hand(rollouts, costs, schedule, expected):
    assert costs.scaled(schedule, rollouts) == expected


@pytest.mark.parametrize("costs", [Costs(64, 0), Costs(64, 32), Costs(100, 300)])
@pytest.mark.parametrize("schedule", [Schedule(1, 3, 2), Schedule(4, 15, 10), Schedule(3, 1, 1)])
def test_a_scaled_schedule_is_within_half_a_step_of_each_phase_a_cycle(costs, schedule):
    for rollouts in range(5000, 20_000, 1237):
        scaled = costs.scaled(schedule, rollouts)
        assert scaled.cycles == schedule.cycles
        assert abs(costs.of(scaled) - rollouts) <= schedule.cycles * (costs.rl_step + costs.opd_step) / 2


@pytest.mark.parametrize(
    ("rollouts", "costs", "schedule", "met"),
    [
        (95, Costs(100, 0), Schedule(1, 1, 0), False),  # one step: 100 is 5.3 % more than 95, 4.2 % more than 96
        (96, Costs(100, 0), Schedule(1, 1, 0), True),
        (106, Costs(100, 0), Schedule(1, 1, 0), False),
        (191, Costs(100, 0), Schedule(1, 1, 0), True),
        (285, Costs(100, 0), Schedule(3, 1, 0), False),
        (286, Costs(100, 0), Schedule(3, 1, 0), True),
    ],
)
def test_a_total_is_met_within_one_rollout_in_twenty(rollouts, costs, schedule, met):
    assert costs.meet(schedule, rollouts) == met
