"""A process that ends with the one that started it."""

import signal
import subprocess
import sys

import psutil

STARTER = """
import subprocess, sys, time
from copd.system.processes import end_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=end_with_parent)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_it_gets_sigterm_however_its_parent_ends():
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone
