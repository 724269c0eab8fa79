"""Imported first by the server that grading processes are forked from, and by no other process.

A SIGTERM to all processes of a run is meant for the main process. The server ignores it: if the server ended, every
running call would end too and earn 0.
"""

import signal

from copd.rewards import mathematics as mathematics  # imported once, for all grading processes

signal.signal(signal.SIGTERM, signal.SIG_IGN)
