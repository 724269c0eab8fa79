"""Imported, before anything else, by the server that grading processes are forked from, and by no other process.

A SIGTERM to all processes of a run is for the first of them. The server must not end by it: with it would end every
call that is under way, and earn 0 in a step that is still to be finished.
"""

import signal

from copd.rewards import mathematics as mathematics  # so that it is imported once, for all

signal.signal(signal.SIGTERM, signal.SIG_IGN)
