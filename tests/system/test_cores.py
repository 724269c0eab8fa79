"""What a process is told about itself."""

import os

import pytest

from copd.system.processes import usable_cores


def test_the_cores_of_a_process_are_those_it_is_pinned_to_and_not_all_of_the_machine(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores() == 2


def test_where_the_system_tells_no_cores_of_a_process_all_are_counted(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert usable_cores() == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")
def test_a_pinned_process_counts_the_core_it_is_pinned_to():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
