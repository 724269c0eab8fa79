"""A whole run under a reward function that does all it must not: each fault costs its own responses and no other."""

import json

import psutil
import pytest
from records import events

import copd
from copd.recipe.reading import load_recipe
from copd.tasks.digits import Digits
from copd.types import Split

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

GRADER = """
import os, signal, sys, time

kept = []

def hang():
    time.sleep(600)

def leak():
    while True:
        kept.append(bytes(2**22))

def fork():
    os.chdir(os.path.dirname(__file__))
    if 0 in [os.fork() for _ in range(3)]:
        time.sleep(600)
    return 1.0

class Rude(BaseException):
    pass

def fail(error):
    raise error

ACTIONS = {
    "good": lambda: 1.0,
    "fork": fork,
    "need a little memory": lambda: float(len(bytearray(2**24)) > 0),
    "hang": hang,
    "endless tower": lambda: 9**9**9,
    "leak": leak,
    "hog": lambda: bytearray(2**33),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "leave": lambda: sys.exit(0),
    "raise": lambda: fail(ValueError("no")),
    "raise beyond Exception": lambda: fail(Rude()),
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "None": lambda: None,
    "text": lambda: "1.0",
    "wrong length": lambda: [1.0, 1.0],
}

def score(response, answer):
    return ACTIONS[answer]()
"""
GOOD = ("good", "fork", "need a little memory")
BAD = (
    *("hang", "endless tower", "leak", "hog", "kill itself", "exit", "leave"),
    *("raise", "raise beyond Exception", "NaN", "infinity", "None", "text", "wrong length"),
)
ROLLOUTS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two steps of RLVR, each over one problem of every kind."""
    folder = tmp_path_factory.mktemp("bad graders").resolve()
    (folder / "mine.py").write_text(GRADER)
    world = Digits("text", conflict=1.0)
    for split, names in ((Split.TRAIN, (*GOOD, *BAD)), (Split.VALIDATION, GOOD[:1]), (Split.TEST, GOOD[:1])):
        rows = [
            {"prompt": world.problem(split, i).prompt, "answer": name, "verifier": "mine"}
            for i, name in enumerate(names)
        ]
        (folder / f"{split.value}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ", ".join(f"{split.value}: '{folder / split.value}.jsonl'" for split in Split)
    changes = [
        "backend=local",
        "method=expert",
        f"branches={{text: {{task: {{kind: rows, {files}}}}}}}",
        "schedule={cycles: 1, rl_steps: 2, opd_steps: 0}",
        f"sampling={{prompts_per_step: {len(GOOD) + len(BAD)}, rollouts_per_prompt: {ROLLOUTS}, max_new_tokens: 64}}",
        "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}",
        "reward={deadline_seconds: 2.0, memory_gib: 1.0, workers: 2}",
        f"verifiers.mine={folder / 'mine.py'}:score",
    ]
    return copd.train(load_recipe("demo-paper", changes), folder / "run").folder


def test_each_fault_costs_the_responses_to_its_own_problem_and_is_counted(folder):
    updates = events(folder, "update")
    assert len(updates) == 2
    for update in updates:
        assert update["native/truncated_rate"] == 0.0
        assert update["native/grader_failures"] == ROLLOUTS * len(BAD)
        assert update["native/reward"] == pytest.approx(len(GOOD) / (len(GOOD) + len(BAD)))
        assert update["skipped"] == 0.0


def test_training_goes_on_to_its_end(folder):
    (result,) = events(folder, "result")
    assert {cell["model"] for cell in result["table"]} == {"base", "text"}
    assert (folder / "report.html").is_file()


def test_nothing_that_the_grader_started_is_left(folder):
    left = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder.parent):
                left.append(process.pid)
        except psutil.Error:
            pass
    assert left == []
