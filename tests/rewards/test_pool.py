"""Processes that can be killed: real hangs, crashes, forks and hogs cost one call each, and nothing is left running."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil
import pytest

from copd.rewards.adapters import Sample, UserVerifier
from copd.rewards.pool import KillablePool
from copd.rewards.worker import verify_by_user, verify_mathematically

DEADLINE = 1.5
"""Seconds."""
FILE = """
import os, signal, sys, threading, time

def stay():
    time.sleep(60)

def loop():
    while True:
        pass

def deaf():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    stay()

def fork(then):
    os.chdir(os.path.dirname(__file__))
    children = [os.fork() for _ in range(3)]
    if 0 in children:
        then()

def bomb():
    os.chdir(os.path.dirname(__file__))
    for _ in range(5):
        os.fork()
    stay()

kept = []

def leak():
    while True:
        kept.append(bytes(2**22))

class Interrupt(BaseException):
    pass

def interrupt():
    raise Interrupt("base \\ud800\\n exception")

ACTIONS = {
    "loop": loop,
    "stay": stay,
    "deaf": deaf,
    "tower": lambda: 9**9**9,
    "fork bomb": bomb,
    "exit in silence": lambda: os._exit(0),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "leave": lambda: sys.exit(7),
    "interrupt": interrupt,
    "hog": lambda: bytearray(2**31),
    "leak": leak,
    "need a little": lambda: bytearray(2**24),
    "work for a minute": lambda: 9**9**8,
    "fork": lambda: fork(lambda: None),
    "fork and stay": lambda: fork(stay),
    "die later": lambda: threading.Timer(0.2, os._exit, (5,)).start(),
}

def score(response, answer):
    if response == "torch":
        return float("torch" in sys.modules)
    if response == "threads":
        return float(os.environ["OMP_NUM_THREADS"])
    if response in ACTIONS:
        ACTIONS[response]()
    return 0.5
"""
NEEDED_MORE = "needed more than 1 GiB of memory"
SLOW = f"took longer than {DEADLINE:g} seconds"
COSTS = {
    "loop": SLOW,
    "deaf": SLOW,
    "tower": SLOW,
    "fork bomb": SLOW,
    "exit in silence": SLOW,
    "exit": "its process ended with exit status 3",
    "kill": "its process ended with exit status -9",
    "crash": "its process ended with exit status -11",
    "leave": "SystemExit: 7",
    "interrupt": "Interrupt: base \\ud800 exception",
    "hog": NEEDED_MORE,
    "leak": NEEDED_MORE,
}


def verifier(folder: Path, text: str = FILE) -> UserVerifier:
    path = folder / "rewards.py"
    path.write_text(text)
    return UserVerifier("mine", str(path), "score", hashlib.sha256(path.read_bytes()).hexdigest(), "copd")


def call(response: str) -> tuple:
    return (verify_by_user, "mine", "copd", Sample("p", response, "a", "task", "id", ()))


def scores(attempts) -> list:
    return [attempt.failure or attempt.value.score for attempt in attempts]


def workers() -> set[int]:
    """All processes below this one but the two helpers of multiprocessing, which live as long as it does."""
    helpers = {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}
    return {child.pid for child in psutil.Process().children(recursive=True)} - helpers


def running_in(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("user").resolve()


@pytest.fixture(scope="module")
def pool(folder):
    pool = KillablePool(2, DEADLINE, 1.0, [verifier(folder)])
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def outcomes(pool) -> tuple[list, list]:
    """One batch with every fault, an innocent call after each."""
    found = scores(pool.run([call(response) for fault in COSTS for response in (fault, "good")]))
    return found[::2], found[1::2]


@pytest.mark.parametrize("fault", COSTS)
def test_a_call_that_hangs_crashes_or_raises_is_lost_and_the_reason_told(outcomes, fault):
    if COSTS[fault] == NEEDED_MORE and sys.platform != "linux":
        pytest.skip("memory is limited on Linux only")
    assert outcomes[0][list(COSTS).index(fault)] == COSTS[fault]


def test_a_fault_costs_no_other_call(outcomes):
    assert outcomes[1] == [0.5] * len(COSTS)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_what_a_call_has_leaked_costs_no_later_call(folder):
    """In one process: a later call that needs a little memory itself has none to share."""
    pool = KillablePool(1, 20.0, 1.0, [verifier(folder)])
    found = scores(pool.run([call(response) for response in ("leak", "need a little", "leak", "need a little")]))
    pool.close()
    assert found == [NEEDED_MORE, 0.5, NEEDED_MORE, 0.5]


def test_after_the_faults_the_pool_goes_on_with_fresh_processes(outcomes, pool):
    assert scores(pool.run([call("good")] * 5)) == [0.5] * 5


def test_a_fork_bomb_is_killed_with_all_it_started(outcomes, folder):
    assert wait_until(lambda: not running_in(folder))


def test_a_call_that_forks_answers_once_and_its_copies_do_no_work(pool, folder):
    assert scores(pool.run([call(response) for response in ("good", "fork", "good", "good")])) == [0.5] * 4
    assert wait_until(lambda: len(running_in(folder)) <= 2)
    assert scores(pool.run([call("good")] * 20)) == [0.5] * 20


def test_a_process_that_dies_between_calls_is_replaced(pool):
    assert scores(pool.run([call("die later")] * 2)) == [0.5, 0.5]
    time.sleep(0.5)
    assert scores(pool.run([call("good")] * 5)) == [0.5] * 5


def test_processes_import_no_torch_and_compute_with_one_thread(pool):
    assert scores(pool.run([call("torch"), call("threads")])) == [0.0, 1.0]


def test_calls_from_several_threads_at_once_give_what_they_give_alone(pool):
    pairs = [(r"\frac{1}{2}", r"\frac{2}{4}"), ("x", "y"), (r"2\sqrt{3}", r"\sqrt{12}"), ("(1,2)", "(1,2)")]
    calls = [(verify_mathematically, *pair) for pair in pairs]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(pool.run, [calls] * 4))
    assert [[attempt.value for attempt in attempts] for attempts in found] == [
        [(1.0, True), (0.0, False), (1.0, True), (1.0, True)]
    ] * 4


def test_processes_start_with_the_first_call_and_end_with_the_pool(tmp_path):
    before = workers()
    pool = KillablePool(2, DEADLINE, 1.0, [verifier(tmp_path)])
    assert pool.run([]) == []
    assert workers() == before
    assert scores(pool.run([call("good"), call("fork and stay")])) == [0.5, 0.5]
    assert len(running_in(tmp_path)) > 1
    pool.close()
    assert wait_until(lambda: not running_in(tmp_path))
    assert workers() == before
    assert scores(pool.run([call("good")])) == [0.5], "a later call starts new ones"
    pool.close()
    pool.close()
    assert workers() == before


def test_a_file_that_changes_during_the_run_is_not_used(tmp_path):
    changed = verifier(tmp_path)
    verifier(tmp_path, FILE.replace("0.5", "1.0"))
    pool = KillablePool(1, DEADLINE, 1.0, [changed])
    (failure,) = scores(pool.run([call("good")]))
    pool.close()
    assert "rewards.py has changed since the start of the run" in failure


@pytest.mark.parametrize("start", ["os._exit(1)", "os._exit(0)", "time.sleep(60)"])
def test_processes_that_cannot_start_are_given_up(tmp_path, monkeypatch, start):
    monkeypatch.setattr("copd.rewards.pool.STALL_SECONDS", 0.2)
    pool = KillablePool(2, 0.5, 1.0, [verifier(tmp_path, f"import os, time\n{start}")])
    assert scores(pool.run([call("good")] * 3)) == ["grading processes do not start, or end at once"] * 3
    pool.close()


SCRIPT = """
import sys, threading
from copd.rewards.pool import KillablePool
from copd.rewards.adapters import Sample, UserVerifier
from copd.rewards.worker import verify_by_user
print("script", flush=True)
pool = KillablePool(2, 60.0, 1.0, [UserVerifier("mine", sys.argv[1], "score", sys.argv[2], "copd")])
def run(*responses):
    return pool.run([(verify_by_user, "mine", "copd", Sample("p", each, "a", "t", "id", ())) for each in responses])
print(run("good")[0].value.score, flush=True)
"""


def script(folder: Path, more: str) -> subprocess.Popen:
    user = verifier(folder)
    (folder / "script.py").write_text(SCRIPT + more)
    command = [sys.executable, str(folder / "script.py"), user.path, user.sha256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_script_needs_no_guard_and_is_run_once(tmp_path):
    said, _ = script(tmp_path, "pool.close()").communicate(timeout=60)
    assert said.split() == ["script", "0.5"]


def test_a_script_that_forgets_to_close_the_pool_ends_all_the_same(tmp_path):
    process = script(tmp_path, "run('fork and stay')")
    assert process.communicate(timeout=60)[0].split() == ["script", "0.5"]
    assert process.returncode == 0
    assert wait_until(lambda: not running_in(tmp_path))


LATE = """
import copd.rewards.pool, late
copd.rewards.pool.watch = late.watch
pool.close()
run("fork and stay")
"""


def test_a_script_ends_though_the_process_that_watches_has_not_begun_to(tmp_path):
    (tmp_path / "late.py").write_text(
        "import time\nfrom copd.rewards import worker\n"
        "def watch(registry):\n    time.sleep(4)\n    worker.watch(registry)\n"
    )
    process = script(tmp_path, LATE)
    assert process.communicate(timeout=30)[0].split() == ["script", "0.5"]
    assert process.returncode == 0
    assert wait_until(lambda: not running_in(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_the_training_process_however_it_is_killed(tmp_path, number):
    process = script(tmp_path, "run('fork and stay', 'work for a minute', 'fork bomb')")
    assert wait_until(lambda: len(running_in(tmp_path)) >= 4)
    started = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
    os.kill(process.pid, number)
    process.wait()
    assert wait_until(lambda: not running_in(tmp_path))
    assert wait_until(lambda: not any(map(psutil.pid_exists, started)))


def test_a_signal_to_all_processes_of_a_run_does_not_end_the_server_that_grading_processes_are_forked_from(pool):
    assert scores(pool.run([call("good")])) == [0.5]
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    server.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.status() != psutil.STATUS_ZOMBIE
    assert scores(pool.run([call("good")])) == [0.5]
    assert forkserver._forkserver._forkserver_pid == server.pid


def test_an_interrupted_batch_leaves_the_pool_usable(pool):
    """As by Ctrl-C: the main thread leaves `run` while calls are under way."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            pool.run([call("stay")] * 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert scores(pool.run([call("good")])) == [0.5]
