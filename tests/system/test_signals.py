"""Signals as exceptions that are not lost."""

import os
import signal
import subprocess
import sys

import pytest

from copd.system.signals import SIGNALS, Ended, handled_by

DROPPED = """
import os, signal, sys, time, weakref
from copd.commands.exits import _ended_by_signals
from copd.runs.lifecycle import Stop

class Watched: pass

with {block}:
    watched = Watched()
    reference = weakref.ref(watched, lambda _: os.kill(os.getpid(), signal.{name}))
    del watched
    print("dropped", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("block", ["Stop(print)", "_ended_by_signals()"])
@pytest.mark.usefixtures("foreground")
def test_a_signal_that_comes_where_python_drops_exceptions_ends_the_work_all_the_same(block, number):
    script = DROPPED.format(block=block, name=number.name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    said = f"stopped by {number.name}; --resume goes on from the last checkpoint\n" if block.startswith("Stop") else ""
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, f"dropped\n{said}", "")


def test_other_exceptions_that_python_drops_are_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))

    class Failing:
        def __del__(self):
            raise ValueError("in a destructor")

    with handled_by(lambda number, _: None):
        Failing()
    assert list(map(str, told)) == ["in a destructor"]


def test_handlers_and_hook_are_those_from_before_once_the_block_has_ended():
    def end(number, _):
        raise Ended(number)

    before = [sys.unraisablehook, *map(signal.getsignal, SIGNALS)]
    with pytest.raises(Ended) as ended, handled_by(end):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (ended.value.code, ended.value.name) == (143, "SIGTERM")
    assert [sys.unraisablehook, *map(signal.getsignal, SIGNALS)] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(number):
    def end(number, _):
        raise Ended(number)

    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handled_by(end):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
