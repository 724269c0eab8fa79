"""Guards: each fires on its own failure, once until it has recovered; what a resumed run is told is the same."""

import json
import math

import pytest

from copd.measure.health import COMPARED, WINDOW, Health

HEALTHY = {
    "native/reward": 0.5,
    "native/accuracy": 0.5,
    "native/groups_with_signal": 0.6,
    "native/response_length": 20.0,
    "native/truncated_rate": 0.0,
    "native/entropy": 0.1,
    "native/logp_mismatch": 1e-7,
    "grad_norm": 0.2,
    "skipped": 0.0,
}
TAUGHT = {"from_b/truncated_rate": 0.0, "from_b/clamp_rate": 0.01, "from_b/logp_mismatch": 1e-7, "from_b/reward": 0.2}


def update(step, branch="a", **changes):
    named = {name.replace("__", "/"): value for name, value in changes.items()}
    return {"event": "update", "step": step, "seconds": 1.5 * step, "branch": branch, **HEALTHY, **named}


def updates(steps, branch="a", **changes):
    return [update(step, branch, **changes) for step in range(steps)]


def behaviour(overlap, step=9, chance=0.1):
    square = {"a": {"a": 1.0, "b": overlap}, "b": {"a": 0.9, "b": 1.0}}
    return {"event": "behaviour", "step": step, "seconds": 1.0, "overlap": {5: square, 10: square}} | {
        "chance": {5: chance / 2, 10: chance}
    }


def teaching(theirs, own, step=9):
    return {"event": "teaching", "step": step, "student": "a", "teacher": "b", "weight": 1.0} | {
        "teacher_accuracy": theirs,
        "student_accuracy": own,
        "lead": theirs - own,
        "lead_low": theirs - own - 0.05,
        "lead_high": theirs - own + 0.05,
    }


def fired(health, events):
    """Place in the events, guard and branch of every fault."""
    return [(i, fault.guard, fault.branch) for i, event in enumerate(events) for fault in health.see(event)]


def test_a_healthy_run_is_not_warned_of():
    events = [one for step in range(50) for one in (update(step, **TAUGHT), update(step, "b", grad_norm=0.9))]
    events += [behaviour(0.9), teaching(0.5, 0.4), {"event": "ledger", "step": 9}, {"event": "result", "step": 9}]
    assert fired(Health([("a", "b")]), events) == []


SICK = [
    ("length", {"native__truncated_rate": 0.51}, {"native__truncated_rate": 0.5}),
    ("length", {"from_b/truncated_rate": 0.51}, {"from_b/truncated_rate": 0.5}),
    ("clamp", {"from_b/clamp_rate": 0.11}, {"from_b/clamp_rate": 0.1}),
    ("mismatch", {"native__logp_mismatch": 1.1e-3}, {"native__logp_mismatch": 0.9e-3}),
    ("reward", {"native__groups_with_signal": 0.0}, {"native__groups_with_signal": 0.1}),
]


@pytest.mark.parametrize(("guard", "sick", "well"), SICK, ids=[f"{guard}-{i}" for i, (guard, _, _) in enumerate(SICK)])
def test_a_guard_fires_once_beyond_its_limit_over_the_last_ten_updates(guard, sick, well):
    assert fired(Health(), updates(40, **well)) == []
    assert fired(Health(), updates(40, **sick)) == [(WINDOW - 1, guard, "a")]


@pytest.mark.parametrize(("reward", "fires"), [(0.0, True), (0.1, False)])
def test_graders_that_leave_a_whole_step_without_reward_are_told_at_once(reward, fires):
    failed = updates(3, **{"native/grader_failures": 8.0, "native__reward": reward})
    said = "branch a: graders failed on 8 responses of step 1, and no other earned anything; `copd doctor` shows the"
    faults = [fault for event in failed for fault in Health().see(event)][:1]
    assert [fault.message.startswith(said) for fault in faults] == [True] * fires


def test_one_bad_update_among_good_ones_is_no_failure():
    assert fired(Health(), [*updates(20), update(20, native__truncated_rate=1.0), *updates(20)]) == []


@pytest.mark.parametrize(("good", "again"), [(8, []), (9, ["length"])], ids=["nine good looks", "ten"])
def test_a_guard_fires_again_only_after_ten_good_looks_in_a_row(good, again):
    """Between ten bad updates and ten more the mean is good from the fifth good one to the fifth bad one."""
    health, sick = Health(), updates(10, native__truncated_rate=1.0)
    assert [guard for _, guard, _ in fired(health, sick)] == ["length"]
    assert fired(health, updates(good)) == []
    assert [guard for _, guard, _ in fired(health, sick)] == again


@pytest.mark.parametrize(
    ("accuracy", "reward", "said"),
    [
        (0.0, 0.0, "no response is right"),
        (1.0, 1.0, "all responses are right"),
        (0.4, 0.4, "earn the same"),
        (0.0, 0.2, "no response is right"),
        (1.0, 0.8, "all responses are right"),
    ],
    ids=["wrong", "right", "both", "wrong, paid for their form", "right, without the pay for their form"],
)
def test_batches_without_signal_are_told_apart_by_how_many_are_right(accuracy, reward, said):
    health = Health()
    signal = {"native__groups_with_signal": 0.0}
    events = updates(WINDOW, **signal, native__accuracy=accuracy, native__reward=reward)
    (fault,) = [fault for event in events for fault in health.see(event)]
    assert said in fault.message


FALLEN = 0.1 * 0.04


@pytest.mark.parametrize(
    ("entropy", "before", "after", "fires"),
    [
        (FALLEN, 0.5, 0.5, True),
        (FALLEN, 0.5, 0.4, True),
        (FALLEN, 0.5, 0.6, False),
        (FALLEN, 0.95, 0.95, False),
        (0.1 * 0.06, 0.5, 0.5, False),
    ],
    ids=["stands still", "falls", "rises", "solved", "entropy left"],
)
def test_an_entropy_near_zero_is_a_collapse_where_the_reward_does_not_rise(entropy, before, after, fires):
    events = [*updates(20, native__reward=before), *updates(20, native__entropy=entropy, native__reward=after)[:10]]
    assert [guard for _, guard, _ in fired(Health(), events)] == ["entropy"] * fires


def test_an_entropy_that_is_small_from_the_start_has_not_collapsed():
    assert fired(Health(), updates(40, native__entropy=1e-4)) == []


@pytest.mark.parametrize(("factor", "fires"), [(0.09, True), (0.11, False), (9.0, False), (11.0, True)])
def test_a_gradient_norm_far_from_the_median_of_the_peers_is_a_failure(factor, fires):
    norms = {"a": 1.0, "b": 1.2, "c": 0.8, "odd": factor}
    events = [update(step, name, grad_norm=norm) for step in range(30) for name, norm in norms.items()]
    assert {branch for _, _, branch in fired(Health(), events)} == ({"odd"} if fires else set())


@pytest.mark.parametrize(("norm", "fires"), [(0.59, False), (0.61, True), (0.069, False), (0.066, True)])
def test_a_part_whose_gradient_is_three_times_anothers_decides_the_step(norm, fires):
    alone = updates(30, native__grad_norm=5.0)
    events = [*alone, *updates(30, native__grad_norm=0.2, from_b__grad_norm=norm)]
    assert fired(Health(), events) == ([(29 + COMPARED, "parts", "a")] if fires else [])


def test_a_part_without_a_gradient_and_a_part_alone_are_no_unequal_parts():
    assert fired(Health(), updates(30, native__grad_norm=0.0, from_b__grad_norm=0.5)) == []
    assert fired(Health(), updates(30, native__grad_norm=0.5)) == []


def test_gradient_norms_of_different_steps_are_not_compared():
    assert fired(Health(), [*updates(20), *(update(step, "b", grad_norm=90.0) for step in range(20, 40))]) == []


def test_a_batch_without_a_gradient_tells_nothing_of_its_size():
    events = [one for step in range(30) for one in (update(step), update(step, "b", grad_norm=0.0))]
    assert fired(Health(), events) == []


@pytest.mark.parametrize(("half", "mismatch", "fires"), [(False, 0.01, True), (True, 0.01, False), (True, 0.06, True)])
def test_under_autocast_sampler_and_trainer_may_differ_by_more(half, mismatch, fires):
    found = fired(Health(in_half=half), updates(WINDOW, native__logp_mismatch=mismatch))
    assert [guard for _, guard, _ in found] == ["mismatch"] * fires


def test_the_proximal_bound_changes_nearly_all_deltas_and_is_no_failure():
    assert fired(Health(clamps=False), updates(20, **{"from_b/clamp_rate": 0.99})) == []


@pytest.mark.parametrize(("overlap", "chance", "fires"), [(0.54, 0.1, True), (0.56, 0.1, False), (0.9, 0.85, True)])
def test_the_floor_of_the_overlap_is_half_way_from_chance_to_agreement(overlap, chance, fires):
    found = fired(Health([("a", "b")]), [behaviour(overlap, chance=chance)])
    assert found == ([(0, "overlap", "a")] if fires else [])


def test_models_that_agree_are_never_below_the_floor():
    assert fired(Health([("a", "b")]), [behaviour(1.0, chance=1.0)]) == []


def test_only_the_overlap_of_student_and_teacher_counts():
    assert fired(Health([("b", "a")]), [behaviour(0.1)]) == []


def test_a_teacher_that_is_clearly_worse_is_told_once_until_it_is_not():
    events = [teaching(*pair) for pair in [(0.48, 0.5), (0.4, 0.5), (0.3, 0.5), (0.6, 0.5), (0.44, 0.5)]]
    assert fired(Health(), events) == [(1, "teacher", "a"), (4, "teacher", "a")]


def test_at_the_start_all_are_the_base_and_no_teacher_need_be_better():
    assert fired(Health(), [teaching(0.4, 0.5, step=-1)]) == []


def test_a_step_that_was_skipped_is_told():
    health = Health()
    (fault,) = health.see(update(3, "b", skipped=1.0, native__entropy=math.nan, grad_norm=math.inf))
    assert (fault.guard, fault.branch) == ("skipped", "b")
    assert "not finite" in fault.message


def eventful():
    """Events in which every guard fires, some of them twice, with numbers that are not finite."""
    nan, events = math.nan, []
    for step in range(120):
        bad = 10 <= step < 40 or 70 <= step < 100
        changes = {
            "native__truncated_rate": 0.9 if bad else 0.1,
            "native__groups_with_signal": 0.0 if 40 <= step < 60 else 0.5,
            "native__entropy": nan if step % 7 == 3 else 1e-4 if bad else 0.1,
            "native__logp_mismatch": 1.0 if bad else 0.0,
            "from_b/clamp_rate": 0.5 if bad else 0.0,
            "grad_norm": nan if step % 5 == 3 else 50.0 if bad else 0.2,
            "skipped": float(step % 35 == 3),
        }
        events += [update(step, **changes), update(step, "b")]
        if step % 10 == 9:
            events += [teaching(0.5, 0.6 if bad else 0.4, step), behaviour(0.2 if bad else 0.9, step)]
    return events


def test_a_run_resumed_anywhere_is_warned_as_one_that_was_never_stopped():
    events = eventful()
    health = Health([("a", "b")])
    whole = [(i, fault) for i, event in enumerate(events) for fault in health.see(event)]
    guards = {fault.guard for _, fault in whole}
    assert guards == {"length", "reward", "clamp", "mismatch", "entropy", "gradient", "overlap", "teacher", "skipped"}
    written = [json.loads(json.dumps(event).replace("NaN", "null")) for event in events]
    for stop in range(0, len(events), 7):
        resumed = Health([("a", "b")])
        for event in written[:stop]:
            resumed.see(event)
        after = [(stop + i, fault) for i, event in enumerate(events[stop:]) for fault in resumed.see(event)]
        assert after == [(i, fault) for i, fault in whole if i >= stop], stop


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"native__grader_failures": 3.0}, "graders fail"),
        ({"native__truncated_rate": 0.9}, "raise sampling.max_new_tokens"),
        ({}, "one final answer in its form"),
    ],
)
def test_where_no_response_is_right_the_advice_follows_what_the_updates_say(changes, said):
    nothing = {"native__groups_with_signal": 0.0, "native__accuracy": 0.0, **changes}
    health = Health()
    found = [fault for step in range(10) for fault in health.see(update(step, **nothing)) if fault.guard == "reward"]
    assert len(found) == 1
    assert said in found[0].message
