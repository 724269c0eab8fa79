"""Real runs that lose a branch in the middle of a call: all branches go on from the last checkpoint they share."""

import asyncio
import io
import os
import re
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest
from rich.console import Console
from test_run import SMALL, TWO_BRANCHES, record

from copd.branches.patience import Patience
from copd.commands.train import train
from copd.errors import ProcessError
from copd.recipe.reading import load_recipe
from copd.runs.screen import Screen

CHANGES = [
    *SMALL,
    TWO_BRANCHES % 1.0,
    "schedule={cycles: 1, rl_steps: 2, opd_steps: 3}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}",
    "checkpoint={every_steps: 1, keep_last: 2}",
]
CALLS = (
    ("image", "update", 1),
    ("text", "score", 1),
    ("image", "collect", 5),
    ("text", "write_state", 1),
    ("image", "save", 1),
)
"""A branch, and the call in the middle of which it is killed: the so-manyth of its kind since all began or went on."""

pytestmark = pytest.mark.usefixtures("undrawn", "foreground")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return train(load_recipe("demo-paper", CHANGES), tmp_path_factory.mktemp("undisturbed") / "run")


def kill(carrier) -> None:
    os.kill(carrier.process, SIGKILL)


def stop(carrier) -> None:
    os.kill(carrier.process, SIGSTOP)


@pytest.fixture
def killed(monkeypatch):
    """The calls that are due to lose their branch, those that have lost it, how, and the number of all calls.

    How is a function of the branch's carrier.
    """
    due, done, seen, how, made = [], [], {}, [kill], Counter()
    apply = Patience.applied

    def applied(self, name, carry):
        carrier = carry.__self__
        seen.update({key: 0 for key in seen if key[0] == name})

        async def deadly(method, *arguments, **options):
            key = (name, method)
            seen[key] = seen.get(key, 0) + 1
            made[key] += 1
            call = asyncio.ensure_future(carry(method, *arguments, **options))
            if due and due[0] == (*key, seen[key]):
                done.append(due.pop(0))
                await asyncio.sleep(0.01)
                how[0](carrier)
            return await call

        return apply(self, name, deadly)

    monkeypatch.setattr(Patience, "applied", applied)
    return due, done, how, made


def lost(folder: Path, killed, calls, *changes: str, how=kill) -> str:
    """What a run said that loses its branches in these calls, one after the other."""
    due, done, killed[2][0] = *killed[:2], how
    due[:] = calls
    said = io.StringIO()
    train(load_recipe("demo-paper", [*CHANGES, *changes]), folder, screen=Screen(Console(file=said, width=400)))
    assert done == list(calls)
    return said.getvalue()


def assert_is(folder: Path, undisturbed: Path) -> None:
    assert record(folder) == record(undisturbed)
    for name in ("samples.jsonl", "answers.jsonl", "merged/model.safetensors"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def assert_told(said: str, calls, how: str) -> None:
    lines = re.findall(
        rf"warning: branch (\w+): {how}.*; all branches go on from the last checkpoint, (\d) restarts", said
    )
    assert lines == [(name, str(9 - number)) for number, (name, *_) in enumerate(calls, 1)]


@pytest.mark.slow
def test_a_run_of_processes_that_loses_a_branch_in_any_call_ends_as_if_undisturbed(undisturbed, tmp_path, killed):
    said = lost(tmp_path / "run", killed, CALLS, "backend={kind: processes, restarts: 9}")
    assert_told(said, CALLS, r"its process has ended \(killed by SIGKILL, as [^)]*\)")
    assert_is(tmp_path / "run", undisturbed)
    assert killed[3]["text", "update"] <= 5 + len(CALLS), "a step is made again for each branch that was lost"


@pytest.mark.slow
def test_a_branch_that_stops_answering_is_named_given_up_and_begun_anew(undisturbed, tmp_path, killed):
    patience = "backend={kind: processes, restarts: 1, slow_minutes: 0.05, give_up_minutes: 0.2}"
    said = lost(tmp_path / "run", killed, CALLS[:1], patience, how=stop)
    assert "warning: branch image: `update` has taken 0.05 minutes so far" in said
    assert "warning: branch image: `update` has given no answer for 0.2 minutes" in said
    assert_is(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_run_on_ray_that_loses_an_actor_ends_as_if_undisturbed(undisturbed, tmp_path, killed):
    said = lost(tmp_path / "run", killed, CALLS[:2], "backend={kind: ray, restarts: 9}")
    assert_told(said, CALLS[:2], "its actor has ended")
    assert_is(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_run_on_a_cluster_that_loses_a_node_goes_on_where_there_is_room(undisturbed, tmp_path, killed, monkeypatch):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)

        def remove(carrier) -> None:
            cluster.remove_node(next(node for node in nodes if node.node_id == carrier.node), allow_graceful=False)

        said = lost(tmp_path / "run", killed, CALLS[:1], "backend={kind: ray, restarts: 9}", how=remove)
    finally:
        cluster.shutdown()
    assert_told(said, CALLS[:1], "its actor has ended")
    assert_is(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_without_restarts_left_the_run_ends_with_the_branch_named_and_resumes(undisturbed, tmp_path, killed):
    folder, backend = tmp_path / "run", "backend={kind: processes, restarts: 0}"
    said = r"^branch image: its process has ended \(killed by SIGKILL, as [^)]*\); nothing that was saved is lost"
    with pytest.raises(ProcessError, match=said):
        lost(folder, killed, CALLS[:1], backend)
    train(load_recipe("demo-paper", [*CHANGES, backend]), folder, resume=True)
    assert_is(folder, undisturbed)
