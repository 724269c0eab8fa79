"""Processes that fork from a server of their own, which imports once."""

import subprocess
import sys

SCRIPT = """
import os, signal
from copd.system.processes import Served, begin_to_import

begin_to_import("colorsys")
context = Served()
for number in range(2):
    ours, theirs = context.Pipe()
    look = "import sys; pipe.send(['colorsys' in sys.modules, 'torch' in sys.modules])"
    process = context.Process(target=exec, args=(look, {"pipe": theirs}))
    process.start()
    print(*ours.recv())
    process.join()
    print(process.exitcode)
process = context.Process(target=signal.pause)
process.start()
os.kill(process.pid, signal.SIGKILL)
process.join()
print(process.exitcode)
"""


def test_a_process_begins_with_what_the_server_has_imported_and_its_end_is_known():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "0", "True", "False", "0", "-9"]
