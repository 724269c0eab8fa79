"""The ledger: sums by hand, the critical path, and going on from a record."""

import json

import pytest

from copd.measure.ledger import ACTIVITIES, Ledger


def counts(rollouts: int, collect: float, score: float, update: float) -> dict[str, float]:
    return {"rollouts": rollouts, **dict(zip(ACTIVITIES, (collect, score, update), strict=True))}


BOOKINGS = [
    ("rlvr", {"a": counts(10, 4.0, 0.0, 1.0), "b": counts(10, 1.0, 0.0, 2.0)}, False),
    ("opd", {"a": counts(16, 6.0, 1.0, 3.0), "b": counts(17, 4.0, 0.5, 6.0)}, True),
    ("rlvr", {"a": counts(26, 7.0, 1.0, 4.0), "b": counts(27, 9.0, 0.5, 7.0)}, False),
]


def book(ledger: Ledger, bookings=BOOKINGS) -> Ledger:
    for phase, spent, meet_within in bookings:
        ledger.add(phase, spent, meet_within=meet_within)
    return ledger


def test_what_a_branch_spent_is_the_growth_of_its_counts_by_phase():
    spent = book(Ledger()).spent
    assert spent["a"]["rlvr"] == counts(10 + 10, 4.0 + 1.0, 0.0, 1.0 + 1.0)
    assert spent["a"]["opd"] == counts(6, 2.0, 1.0, 2.0)
    assert spent["b"]["rlvr"] == counts(10 + 10, 1.0 + 5.0, 0.0, 2.0 + 1.0)
    assert spent["b"]["opd"] == counts(7, 3.0, 0.5, 4.0)


def test_the_critical_path_is_the_slowest_branch_or_the_slowest_of_each_activity():
    # rlvr: max(4+1, 1+2) then max(1+1, 5+1); opd: max(2, 3) + max(1, 0.5) + max(2, 4)
    assert book(Ledger()).critical_path == {"rlvr": 5.0 + 6.0, "opd": 3.0 + 1.0 + 4.0}


def test_some_branches_alone_are_as_slow_as_the_slowest_of_them_and_all_of_them_as_they_were():
    ledger = book(Ledger())
    ledger.spent["c"] = {"rlvr": counts(1, 50.0, 0.0, 0.0)}
    ledger._seen["c"] = counts(1, 50.0, 0.0, 0.0)
    ledger.critical_path = {"rlvr": 60.0, "opd": 8.0}
    some = ledger.of(["b", "a"])
    assert some.spent == {name: ledger.spent[name] for name in "ab"}
    assert some.critical_path == {"rlvr": max(5.0 + 2.0, 6.0 + 3.0), "opd": max(2.0 + 1.0 + 2.0, 3.0 + 0.5 + 4.0)}
    assert ledger.of(["c"]).critical_path == {"rlvr": 50.0, "opd": 0.0}
    assert ledger.of(["c", "a", "b"]).critical_path == {"rlvr": 60.0, "opd": 8.0}
    some.add("rlvr", {"a": counts(30, 10.0, 1.0, 5.0), "b": counts(27, 9.0, 0.5, 7.0)}, meet_within=False)
    assert some.critical_path["rlvr"] == 9.0 + 4.0
    assert ledger.critical_path["rlvr"] == 60.0


def test_the_critical_path_lies_between_the_slowest_branch_and_the_sum_of_all():
    ledger = book(Ledger())
    by_branch = [
        sum(spent[name] for spent in phases.values() for name in ACTIVITIES) for phases in ledger.spent.values()
    ]
    assert max(by_branch) <= sum(ledger.critical_path.values()) <= sum(by_branch)


@pytest.mark.parametrize(("name", "total"), [("rollouts", 53), ("score_seconds", 1.5), ("collect_seconds", 16.0)])
def test_what_was_spent_in_all_phases_are_the_last_counts(name, total):
    spent = book(Ledger()).spent
    assert sum(counts[name] for phases in spent.values() for counts in phases.values()) == total


def test_nothing_is_spent_in_the_beginning():
    assert Ledger().spent == Ledger().critical_path == {}


def test_counts_that_do_not_grow_book_nothing():
    ledger = book(Ledger())
    before = json.dumps(ledger.as_record())
    ledger.add("rlvr", BOOKINGS[-1][1], meet_within=False)
    assert json.dumps(ledger.as_record()) == before


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_ledger_goes_on_from_its_record_as_if_never_stopped(stop):
    record = json.loads(json.dumps(book(Ledger(), BOOKINGS[:stop]).as_record()))
    assert book(Ledger(record), BOOKINGS[stop:]).as_record() == book(Ledger()).as_record()
