"""Branches as actors of a real Ray cluster: what a branch of this process gives, what is told, and how they end."""

import asyncio
import os
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial

import psutil
import pytest
import ray
import torch
from test_processes import NAMES, RECIPE, drawn_here, taught

from copd.assemble.branches import lone_branch
from copd.branches import ray as on_ray
from copd.branches.local import local_handle
from copd.branches.ray import RayBranch, Resources
from copd.branches.travel import from_bytes
from copd.errors import LostBranchError, OutOfMemoryError, ProcessError, RecipeError
from copd.recipe.reading import load_recipe
from copd.system.cluster import cards_for, cluster, got
from copd.system.files import sha256
from copd.system.signals import Ended, handled_by
from copd.types import Part, Split

pytestmark = pytest.mark.slow
ROOM = Resources(1, 0)
HERE = drawn_here()


def of(kept):
    """The rollouts or the score behind a reference."""
    return from_bytes(ray.get(kept.content), HERE)


def started(name, recipe=RECIPE):
    return RayBranch(name, partial(lone_branch, recipe, name, NAMES.index(name), None), print, ROOM, HERE)


@pytest.fixture(scope="module", autouse=True)
def here():
    """A cluster of this machine; who handled the signals before it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with cluster(8):
        yield before


def listening():
    """The processes that this one has started, directly or not, each with an address on which it listens."""
    servers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has just ended
            found = process.net_connections("inet")
            servers += [(process.pid, each.laddr.ip) for each in found if each.status == psutil.CONN_LISTEN]
    return servers


def assert_on_loopback(servers):
    assert servers
    assert {"127.0.0.1"} <= {address for _, address in servers} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def warning():
    """Makes the branch `image`, which warns when it collects. Pickled by value: an actor cannot import this file."""

    @contextmanager
    def made(warn):
        with lone_branch(RECIPE, "image", NAMES.index("image"), None, warn) as branch:
            collect = branch.collect

            def and_warn(*asked, **options):
                warn("a grader failed")
                return collect(*asked, **options)

            branch.collect = and_warn
            yield branch

    return made


def losing():
    """Makes ranks of a branch. At step 0 the second one fails and the first one waits for it. At step 1 the second one
    ends, after the first one has failed for want of it.
    """

    @contextmanager
    def made(warn, meeting):
        with lone_branch(RECIPE, "image", NAMES.index("image"), None, warn, meeting) as branch:

            def collect(task, step, *asked, **options):
                if (meeting.rank, step) == (1, 0):
                    raise OutOfMemoryError("branch image: out of memory")
                if (meeting.rank, step) == (0, 1):
                    raise RuntimeError("Connection reset by peer")
                time.sleep(2)
                if step:
                    os._exit(1)

            branch.collect = collect
            yield branch

    return made


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def pair(told):
    """Two branches, each an actor; the second one's warnings are kept in `told`."""
    actors = [started("text"), RayBranch("image", warning(), told.append, ROOM, HERE)]
    yield [actor.handle() for actor in actors]
    for actor in actors:
        actor.close()


def test_an_actor_gives_what_a_branch_of_this_process_gives(pair, told, tmp_path):
    with lone_branch(RECIPE, "text", 0, None, print) as text, lone_branch(RECIPE, "image", 1, None, print) as image:
        here = asyncio.run(taught(local_handle(text), local_handle(image), tmp_path))
    there = asyncio.run(taught(*pair, tmp_path))
    assert (pair[0].capability, pair[0].allowed_tokens) == ("text", text.policy.allowed_tokens)
    assert torch.equal(of(there[0]).logp_NT, here[0].logp_NT)
    assert {**there[1], "tokens_per_second": 0} == {**here[1], "tokens_per_second": 0}
    assert torch.equal(there[2].tokens_NT, here[2].tokens_NT)
    assert torch.equal(there[3].at_ids_NTK, here[3].at_ids_NTK)
    assert there[4] == here[4]
    assert there[5] == here[5]
    assert there[6]["rollouts"] == here[6]["rollouts"] == 12
    assert there[7][1] == here[7][1]
    assert not told


@pytest.fixture(scope="module")
def on_two_ranks():
    """A branch of two ranks, and one of one rank that teaches it."""
    make = partial(lone_branch, RECIPE, "text", 0, None)
    actors = [RayBranch("text", make, print, Resources(1, 0, ranks=2), HERE), started("image")]
    yield [actor.handle() for actor in actors], actors[0]
    for actor in actors:
        actor.close()


def test_a_branch_of_two_ranks_gives_what_a_branch_of_one_gives(on_two_ranks, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    with lone_branch(RECIPE, "text", 0, None, print) as text, lone_branch(RECIPE, "image", 1, None, print) as image:
        alone = asyncio.run(taught(local_handle(text), local_handle(image), here))
        (student, teacher), _ = on_two_ranks
        score, metrics, validated, _, said, files, counts, gradients = asyncio.run(taught(student, teacher, there))
        torch.testing.assert_close(of(score).logp_NT, alone[0].logp_NT, rtol=0, atol=1e-4)
        assert {**metrics, "tokens_per_second": 0} == pytest.approx({**alone[1], "tokens_per_second": 0}, abs=1e-3)
        assert torch.equal(validated.tokens_NT, alone[2].tokens_NT)
        assert said == alone[4]
        assert {name: counts[name] for name in counts if "seconds" not in name} == {
            name: alone[6][name] for name in counts if "seconds" not in name
        }
        for found, expected in zip(gradients[0], alone[7][0], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        assert [len(files), len(alone[5])] == [3, 1]
        text.read_state(there / "text.safetensors", counts)
        text.write_weights(here / "weights")
        asyncio.run(student.write_weights(there / "weights"))
        weights = [sha256(folder / "weights" / "model.safetensors") for folder in (here, there)]
        assert weights[0] == weights[1]
        asyncio.run(student.read_state(here / "text.safetensors", counts))
        text.read_state(here / "text.safetensors", counts)
        asyncio.run(student.write_weights(there / "again"))
        text.write_weights(here / "again")
        assert sha256(there / "again" / "model.safetensors") == sha256(here / "again" / "model.safetensors")
        asyncio.run(student.load_weights(here / "weights"))
        text.load_weights(here / "weights")
        files = asyncio.run(student.write_state(there / "anew.safetensors"))
        state = {**text.state(), "version": torch.tensor(1)}
        text.read_state(there / "anew.safetensors", counts)
        assert len(files) == 3
        assert text.state().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in text.state().items())


def test_the_first_rank_alone_answers_for_its_branch(on_two_ranks):
    answers = [from_bytes(ray.get(each.call.remote("counts")), HERE) for each in on_two_ranks[1]._actors]
    assert [value is None for value, _, _ in answers] == [False, True]
    assert all(peak.machine > 2**27 for _, _, peak in answers)


def test_ranks_of_the_own_cluster_listen_on_the_loopback_address_only(on_two_ranks):
    _, actor = on_two_ranks
    assert actor.process in [process for process, _ in listening()]
    assert_on_loopback(listening())


def test_a_branch_that_loses_a_rank_is_lost(on_two_ranks):
    (student, _), actor = on_two_ranks
    os.kill(actor.process, signal.SIGKILL)
    began = time.perf_counter()
    with pytest.raises(LostBranchError, match="branch text: its actor has ended"):
        asyncio.run(student.collect("text", 5, 2, 2))
    assert time.perf_counter() - began < 60


def test_an_error_of_one_rank_is_told_while_others_wait_unless_another_has_ended(monkeypatch):
    actor = RayBranch("image", losing(), print, Resources(1, 0, ranks=2), HERE)
    branch = actor.handle()
    monkeypatch.setattr(on_ray, "TOLD_SECONDS", 0.1)
    with pytest.raises(OutOfMemoryError, match="branch image: out of memory"):
        asyncio.run(branch.collect("image", 0, 1, 1))
    monkeypatch.undo()
    with pytest.raises(LostBranchError, match="branch image: its actor has ended"):
        asyncio.run(branch.collect("image", 1, 1, 1))
    actor.close()


def test_rollouts_and_scores_do_not_come_to_the_process_of_the_run(pair, monkeypatch):
    opened = []

    def counted(content, draw):
        opened.append(len(content))
        return from_bytes(content, draw)

    async def step():
        own, visit = await pair[0].collect("text", 0, 40, 4), await pair[0].collect("image", 0, 40, 4)
        score = await pair[1].score(visit)
        await pair[0].update([Part("native", own), Part("from_image", visit, 0.5, score)])
        return visit, score

    monkeypatch.setattr(on_ray, "from_bytes", counted)
    visit, score = asyncio.run(step())
    assert len(opened) == 4
    assert sum(opened) < 5_000
    assert all(len(ray.get(kept.content)) > 10_000 for kept in (visit, score))


def test_warnings_of_an_actor_reach_the_run_with_the_next_answer(pair, told):
    asyncio.run(pair[1].collect("text", 0, 1, 1))
    assert told == ["a grader failed"]


def test_an_error_of_a_branch_arrives_as_it_was_raised(pair):
    async def stale():
        rollouts = await pair[0].collect("text", 0, 1, 2)
        score = await pair[1].score(rollouts)
        await pair[0].update([Part("from_image", rollouts, 1.0, score, teacher_version=of(score).version + 1)])

    with pytest.raises(ValueError, match="branch text: from_image was scored at version 0, due is 1"):
        asyncio.run(stale())


def test_weights_and_state_of_actors_travel_by_files(pair, tmp_path):
    text, image = pair

    async def swap():
        await text.write_weights(tmp_path / "weights")
        await image.load_weights(tmp_path / "weights")
        await image.write_weights(tmp_path / "again")
        state, counts = await text.write_state(tmp_path / "state"), await text.counts()
        await image.read_state(tmp_path / "state", counts)
        return state, await image.write_state(tmp_path / "copied"), await text.settled_path()

    state, copied, path = asyncio.run(swap())
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(tmp_path / "weights" / "model.safetensors")
    assert [each.sha256 for each in copied] == [each.sha256 for each in state]
    assert path.packing


def test_a_branch_that_cannot_be_built_says_why_as_it_would_here():
    recipe = load_recipe(
        "demo-paper", ["branches.text.task={capability: text, operators: [max], length: [2, 2], max_number: 3}"]
    )
    actor = started("text", recipe)
    with pytest.raises(RecipeError, match=r"^branches\.text\.task: .* different validation problems found"):
        actor.handle()
    actor.close()


def test_an_actor_that_is_killed_in_a_call_is_named_at_once():
    actor = started("video")
    branch = actor.handle()
    assert actor.peak.machine > 2**27

    async def killed():
        call = asyncio.create_task(branch.answer_first(Split.TEST, "video", 2000, 4, greedy=False))
        await asyncio.sleep(0.3)
        os.kill(actor.process, signal.SIGKILL)
        await call

    begun = time.monotonic()
    with pytest.raises(ProcessError, match="branch video: its actor has ended"):
        asyncio.run(killed())
    with pytest.raises(ProcessError, match="branch video"):
        asyncio.run(branch.counts())
    actor.close()
    assert time.monotonic() - begun < 60, "the call would have taken minutes"


def test_a_branch_for_which_the_cluster_has_no_room_is_named_with_what_is_free(monkeypatch):
    monkeypatch.setattr(on_ray, "WAITED_SECONDS", 1)
    told = []
    actor = RayBranch("big", warning(), told.append, Resources(1000, 0, minutes=0.05), HERE)
    said = (
        r"asks for 1000 cores, which no node .* in 0\.05 minutes; free in all: CPU \d.*, raise backend\.place_minutes"
    )
    with pytest.raises(ProcessError, match=f"^branch big: {said}$"):
        actor.handle()
    actor.close()
    (waits,) = told
    assert re.match(r"waits for 1000 cores, which no node of the Ray cluster has free yet; free in all: CPU \d", waits)


def test_what_the_handler_of_a_signal_raises_ends_a_wait_for_actors():
    def ended(number, frame):
        raise Ended(number)

    def long():
        time.sleep(5)

    def press():  # again, since Python drops what is raised within a callback that ignores errors
        while not raised.wait(0.5):
            os.kill(os.getpid(), signal.SIGINT)

    begun, raised = ray.remote(num_cpus=0)(long).remote(), threading.Event()
    pressing = threading.Thread(target=press)
    with handled_by(ended):
        pressing.start()
        with pytest.raises(Ended):
            got([begun])
        raised.set()
        pressing.join()
    assert got([begun]) == [None]


def test_signals_stay_with_the_run(here):
    assert {number: signal.getsignal(number) for number in here} == here


def test_a_branch_asks_for_a_card_only_where_it_computes_on_one():
    assert [cards_for(device) for device in ("cpu", "cuda", "auto")] == [0, 1, 0]


def test_the_own_cluster_listens_on_the_loopback_address_only():
    assert_on_loopback(listening())
