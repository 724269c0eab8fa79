"""Branches in processes of their own: what a branch of this process gives, what is told, and how they end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from email.message import Message
from functools import partial
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest
import torch

from copd.assemble.branches import lone_branch
from copd.assemble.tasks import make_tasks
from copd.branches.local import local_handle
from copd.branches.patience import Patience
from copd.branches.processes import BranchProcess
from copd.errors import LostBranchError, ProcessError, RecipeError
from copd.recipe.reading import load_recipe
from copd.system.files import sha256
from copd.tasks.asked import Asked
from copd.types import Part, Split

SMALL = ["sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 28}", "optimizer.learning_rate=1e-3"]
RECIPE = load_recipe("demo-paper", SMALL)
NAMES = ("text", "image", "video")


def started(name, warn=print, recipe=RECIPE):
    return BranchProcess(name, partial(lone_branch, recipe, name, NAMES.index(name), None), warn, drawn_here())


def drawn_here():
    """What makes the problems of responses in this process."""
    return Asked(make_tasks(RECIPE)).at


@contextmanager
def warning_branch(warn):
    """The branch `image`, which warns when it collects, and when it ends. It does not reach the videos."""
    with lone_branch(RECIPE, "image", NAMES.index("image"), None, warn) as branch:
        collect = branch.collect

        def and_warn(*asked, **options):
            if asked[0] == "video":
                raise HTTPError("http://localhost", 503, "Service Unavailable", Message(), None)
            warn("a grader failed")
            return collect(*asked, **options)

        branch.collect = and_warn
        yield branch
        warn("two rows were left out")


def silent_disk(warn):
    raise TimeoutError(110, "Connection timed out", "model.safetensors")


@contextmanager
def idle(warn):
    yield SimpleNamespace(capability="text", policy=SimpleNamespace(allowed_tokens=1))


@contextmanager
def waiting(warn):
    with idle(warn) as branch:
        branch.collect = lambda *_, **__: time.sleep(600)
        branch.asked = drawn_here().__self__
        yield branch


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def pair(told):
    """Two branches, each in its process; the second one's warnings are kept in `told`."""
    processes = [started("text"), BranchProcess("image", warning_branch, told.append, drawn_here())]
    yield [process.handle() for process in processes]
    for process in processes:
        process.close()


def process_of(branch) -> BranchProcess:
    """What carries the calls of a handle."""
    return branch._carry.__self__


def pid_of(branch) -> int:
    return process_of(branch)._process.pid


def is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


async def taught(student, teacher, folder):
    """A step of mutual OPD, from one side; with the metrics what a checkpoint would hold."""
    own, visit = await asyncio.gather(student.collect("text", 0, 2, 4), student.collect("image", 0, 1, 4))
    score = await teacher.score(visit)
    metrics = await student.update([Part("native", own), Part("from_image", visit, 0.5, score)])
    validated = await student.answer_first(Split.TEST, "text", 2, 2, greedy=False)
    inspected = await teacher.inspect(validated, 3, validated.tokens_NT[..., None])
    said = await student.texts(validated), await student.pieces(validated, 1)
    state, counts = await student.write_state(folder / "text.safetensors"), await student.counts()
    gradients = await student.native_gradients(range(1, 3), 4, 4)
    return score, metrics, validated, inspected, said, state, counts, gradients


def test_a_process_gives_what_a_branch_of_this_process_gives(pair, tmp_path):
    with lone_branch(RECIPE, "text", 0, None, print) as text, lone_branch(RECIPE, "image", 1, None, print) as image:
        here = asyncio.run(taught(local_handle(text), local_handle(image), tmp_path))
    there = asyncio.run(taught(*pair, tmp_path))
    assert pair[0].capability == "text"
    assert pair[0].allowed_tokens == text.policy.allowed_tokens
    assert torch.equal(there[0].logp_NT, here[0].logp_NT)
    clocks = {"tokens_per_second"}
    assert {k: v for k, v in there[1].items() if k not in clocks} == {
        k: v for k, v in here[1].items() if k not in clocks
    }
    assert torch.equal(there[2].tokens_NT, here[2].tokens_NT)
    assert torch.equal(there[2].reward_N, here[2].reward_N)
    assert torch.equal(there[3].at_ids_NTK, here[3].at_ids_NTK)
    assert there[4] == here[4]
    assert there[5] == here[5]
    assert there[5][0].bytes == (tmp_path / "text.safetensors").stat().st_size
    assert there[6].keys() == here[6].keys()
    assert there[6]["rollouts"] == here[6]["rollouts"] == 12
    assert there[7][1] == here[7][1]
    assert there[7][1][0] > 0
    assert all(torch.equal(*pair) for pair in zip(there[7][0], here[7][0], strict=True))


def test_a_student_learns_on_its_teachers_responses_as_in_one_process_and_none_is_left_there(tmp_path):
    async def learned(student, teacher):
        await teacher.collect("image", 5, 1, 2)
        given = await teacher.replay(0)
        score = await teacher.score(given)
        assert (await teacher.score(given)).version == score.version
        part = Part("from_image", given, 0.5, score, score.version, by_teacher=True)
        metrics = await student.update([part])
        return {name: value for name, value in metrics.items() if name != "tokens_per_second"}, given

    recipe = load_recipe("demo-paper", [*SMALL, "opd={signal: forward_kl, replay: 1}"])
    with lone_branch(recipe, "text", 0, None, print) as text, lone_branch(recipe, "image", 1, None, print) as image:
        here, _ = asyncio.run(learned(local_handle(text), local_handle(image)))
        state = text.write_state(tmp_path / "here")
    processes = [started(name, recipe=recipe) for name in NAMES[:2]]
    try:
        student, teacher = (process.handle() for process in processes)
        there, given = asyncio.run(learned(student, teacher))
        assert there == here
        assert [each.sha256 for each in asyncio.run(student.write_state(tmp_path / "there"))] == [state[0].sha256]
        with pytest.raises(RuntimeError, match="KeyError"):
            asyncio.run(teacher._carry.__self__._ask("content", given.number))
    finally:
        for process in processes:
            process.close()


class Counted:
    """A pipe that counts the bytes that come and go."""

    def __init__(self, pipe):
        self.pipe, self.bytes = pipe, 0

    def recv_bytes(self):
        content = self.pipe.recv_bytes()
        self.bytes += len(content)
        return content

    def send_bytes(self, content):
        self.bytes += len(content)
        self.pipe.send_bytes(content)


def test_weights_and_state_travel_both_ways_by_files_and_not_through_the_pipe(pair, tmp_path, monkeypatch):
    text, image = pair
    pipes = [Counted(process_of(branch)._pipe) for branch in pair]
    for branch, pipe in zip(pair, pipes, strict=True):
        monkeypatch.setattr(process_of(branch), "_pipe", pipe)

    async def swap():
        await text.write_weights(tmp_path / "weights")
        await image.load_weights(tmp_path / "weights")
        await image.write_weights(tmp_path / "again")
        state, counts = await text.write_state(tmp_path / "state"), await text.counts()
        await image.read_state(tmp_path / "state", counts)
        return state, await image.write_state(tmp_path / "copied"), counts, await image.counts()

    state, copied, counts, copied_counts = asyncio.run(swap())
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(tmp_path / "weights" / "model.safetensors")
    assert copied[0].sha256 == state[0].sha256
    assert copied_counts == counts
    assert state[0].bytes > 5_000_000
    assert 0 < sum(pipe.bytes for pipe in pipes) < 10_000


def test_responses_stay_until_the_branch_that_sampled_them_has_been_updated(pair):
    text, image = pair

    async def too_late():
        rollouts = await text.collect("image", 3, 1, 4)
        with pytest.raises(ValueError, match="branch image cannot be trained on responses that another branch keeps"):
            await image.update([Part("native", rollouts)])
        own = await text.collect("text", 3, 2, 4)
        await text.update([Part("native", own)])
        await image.score(rollouts)

    with pytest.raises(RuntimeError, match="KeyError") as caught:
        asyncio.run(too_late())
    assert "in the branch's process:\nTraceback" in "".join(caught.value.__notes__)


def test_a_branch_that_cannot_be_built_says_why_as_it_would_here():
    recipe = load_recipe(
        "demo-paper", ["branches.text.task={capability: text, operators: [max], length: [2, 2], max_number: 3}"]
    )
    process = started("text", recipe=recipe)
    with pytest.raises(RecipeError, match=r"^branches\.text\.task: .* different validation problems found"):
        process.handle()
    process.close()
    assert not is_alive(process._process.pid)


def test_a_disk_that_times_out_in_building_is_told_as_that_and_the_branch_is_not_called_slow():
    process, told = BranchProcess("text", silent_disk, print, drawn_here()), []
    try:
        with pytest.raises(TimeoutError, match=r"Connection timed out: 'model\.safetensors'"):
            process.handle(Patience(10, 20, told.append))
    finally:
        process.close()
    assert told == []


def test_a_library_s_error_that_cannot_be_read_from_its_bytes_is_told_in_words(pair):
    with pytest.raises(
        RuntimeError, match=r"^HTTPError: HTTP Error 503: Service Unavailable\nin the branch's process:"
    ):
        asyncio.run(pair[1].collect("video", 0, 1, 1))


def test_a_student_that_does_not_hand_over_its_responses_is_named_and_not_its_teacher(pair, monkeypatch):
    processes, told = [process_of(branch) for branch in pair], []
    for process in processes:
        monkeypatch.setattr(process, "_ask", process._ask)
    rollouts = asyncio.run(pair[0].collect("image", 4, 1, 4))
    teacher = [process.handle(Patience(0.005, 0.02, told.append)) for process in processes][1]
    os.kill(processes[0].process, signal.SIGSTOP)
    try:
        with pytest.raises(LostBranchError, match=r"^branch text: `content` has given no answer"):
            asyncio.run(teacher.score(rollouts))
    finally:
        os.kill(processes[0].process, signal.SIGCONT)
    assert told == ["branch text: `content` has taken 0.005 minutes so far"]


def test_a_process_that_is_killed_in_a_call_is_named_at_once():
    process = started("video")
    branch = process.handle()
    assert process.peak.machine > 2**27

    async def killed():
        call = asyncio.create_task(branch.answer_first(Split.TEST, "video", 2000, 4, greedy=False))
        await asyncio.sleep(0.3)
        os.kill(process._process.pid, signal.SIGKILL)
        await call

    begun = time.monotonic()
    with pytest.raises(ProcessError, match=r"^branch video: its process has ended \(killed by SIGKILL, as .*\)$"):
        asyncio.run(killed())
    with pytest.raises(ProcessError, match="branch video"):
        asyncio.run(branch.counts())
    process.close()
    assert time.monotonic() - begun < 60, "the call would have taken minutes"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_for_the_run_lets_the_process_of_a_branch_go_on(pair, number):
    process = pid_of(pair[0])
    os.kill(process, number)
    assert asyncio.run(pair[0].answer_first(Split.TEST, "text", 2, 1, greedy=True)).reward_N is not None
    assert is_alive(process)


def test_warnings_of_a_process_reach_the_run_with_the_next_answer_and_at_the_end(pair, told):
    """The last test of the two, as it ends one."""
    process = process_of(pair[1])
    asyncio.run(pair[1].collect("text", 0, 1, 1))
    assert told == ["a grader failed"]
    process.close()
    assert told == ["a grader failed", "two rows were left out"]
    assert not is_alive(process._process.pid)


OWNER = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from test_processes import BranchProcess, drawn_here, idle, waiting
processes = [BranchProcess(make.__name__, make, print, drawn_here()) for make in (idle, waiting)]
handles = [process.handle() for process in processes]
print(*(process.process for process in processes), flush=True)
asyncio.run(handles[1].collect("text", 0, 1, 1))
"""


def test_processes_end_with_the_run_that_started_them_however_that_ends_and_whatever_they_do():
    script = OWNER.format(folder=os.path.dirname(__file__))
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    run.kill()
    run.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))
