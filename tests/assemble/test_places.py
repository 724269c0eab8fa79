"""Where the branches of a run live: what is left where one of them cannot be built, and the memory of all."""

import asyncio
import shutil
from contextlib import closing, nullcontext
from types import SimpleNamespace

import psutil
import pytest
import torch

from copd.assemble.assembled import assembled
from copd.assemble.places import PLACES, OwnProcesses, RayActors, placed
from copd.branches.local import finish
from copd.errors import ModelFolderError
from copd.measure.behaviour import measure_behaviour
from copd.model.folders import model_folder
from copd.recipe.reading import load_recipe
from copd.system.processes import Memory, peak
from copd.types import SettledPath

BUILT = {"text": Memory(2**33), "image": Memory(2**34), "video": ModelFolderError("no such device")}
"""What the processes of branches hold once they stand, or why one does not. The last test has real processes."""


@pytest.fixture
def closed(monkeypatch) -> list[str]:
    """The processes that have been ended of those that stand where real ones would."""
    ended = []

    class Standing:
        def __init__(self, name, make, warn, draw):
            self.name, self.peak = name, BUILT[name]

        def handle(self, patience):
            if isinstance(self.peak, Exception):
                raise self.peak
            return self.name

        def close(self):
            ended.append(self.name)

    monkeypatch.setattr("copd.assemble.places.BranchProcess", Standing)
    return ended


def place_of(*names: str) -> OwnProcesses:
    base = SimpleNamespace(to=lambda device: None)
    asked = SimpleNamespace(at=None)
    made = SimpleNamespace(recipe=load_recipe("demo-paper"), inheritance=None, base=base, warn=print, asked=asked)
    return OwnProcesses(made, names)


@pytest.mark.parametrize(
    ("dtype", "cards", "half"), [("auto", 1, True), ("auto", 0, False), ("bfloat16", 0, True), ("float32", 1, False)]
)
def test_actors_on_cards_compute_in_half_though_the_run_itself_has_no_card(monkeypatch, dtype, cards, half):
    actor = SimpleNamespace(name="text", close=lambda: None, handle=lambda patience: None)
    monkeypatch.setattr("copd.branches.ray.RayBranch", lambda *_: actor)
    monkeypatch.setattr("copd.system.cluster.cluster", lambda cores: nullcontext())
    monkeypatch.setattr("copd.system.cluster.cards_for", lambda device: cards)
    base, asked = SimpleNamespace(to=lambda device: None), SimpleNamespace(at=None)
    recipe = load_recipe("demo-paper", ["model.device=auto", f"model.dtype={dtype}"])
    made = SimpleNamespace(recipe=recipe, inheritance=None, base=base, warn=print, asked=asked)
    with closing(RayActors(made, ["text"])) as place:
        assert place.in_half is half


def test_where_one_branch_cannot_be_built_the_processes_of_all_end(closed):
    with pytest.raises(ModelFolderError, match="no such device"):
        place_of("text", "video", "image")
    assert sorted(closed) == ["image", "text", "video"]


def test_the_processes_of_branches_are_counted_beside_that_of_the_run(closed):
    place = place_of("text", "image")
    assert peak().machine <= place.peak().machine - 2**33 - 2**34 < 2 * peak().machine
    place.close()
    assert sorted(closed) == ["image", "text"]


def test_a_model_that_is_only_evaluated_is_on_its_device_only_from_its_first_answer_on(closed, monkeypatch):
    moves = []
    monkeypatch.setattr("copd.assemble.places.compute_on", lambda *_: (torch.device("cuda", 0), None))

    class Evaluated:
        name, policy, capability = "base", SimpleNamespace(allowed_tokens=3), ""

        def move(self, device):
            moves.append(str(device))

        def answer_first(self):
            return "an answer"

        def texts(self):
            return "texts"

    place = place_of("text")
    place._made.actor = lambda name, policy: Evaluated()
    base = place.evaluated("base", None)
    assert asyncio.run(base._carry("texts")) == "texts"
    assert moves == ["cpu"]
    assert asyncio.run(base._carry("answer_first")) == "an answer"
    assert moves == ["cpu", "cuda:0"]
    place.close()


def test_on_a_card_branches_answer_last_questions_first_and_have_ended_when_base_and_merge_answer(closed, monkeypatch):
    text, image, base, merge = (SimpleNamespace(name=name) for name in ("text", "image", "base", "merged"))
    models = [base, text, image, merge]
    place = place_of("text", "image")
    assert list(place.rounds(models)) == [models]
    assert closed == []
    place.close()
    closed.clear()
    monkeypatch.setattr("copd.assemble.places.compute_on", lambda *_: (torch.device("cuda", 0), None))
    place = place_of("text", "image")
    seen = [([model.name for model in together], sorted(closed)) for together in place.rounds(models)]
    ended = ["image", "text"]
    assert seen == [(["text", "image"], []), (["base"], ended), (["merged"], ended)]
    assert place.peak().machine > 2**34, "what ended branches had held is known"
    place.close()
    assert sorted(closed) == ended


def test_before_branches_begin_the_run_gives_back_what_the_check_of_its_base_took_of_a_card(closed, monkeypatch):
    begun = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: begun.append("given back"))
    base = SimpleNamespace(to=begun.append)
    made = SimpleNamespace(
        recipe=load_recipe("demo-paper"), inheritance=None, base=base, warn=print, asked=SimpleNamespace(at=None)
    )
    monkeypatch.setattr("copd.assemble.places.begin_to_import", lambda module: begun.append("branches"))
    OwnProcesses(made, ["text"]).close()
    assert begun == ["cpu", "given back", "branches"]


def test_branches_of_different_paths_do_not_begin_and_are_ended(monkeypatch):
    class Settled:
        def __init__(self, packing):
            self.path = SettledPath(True, packing, "here")

        async def settled_path(self):
            return self.path

    ended = []
    place = SimpleNamespace(close=lambda: ended.append("all"))
    monkeypatch.setitem(PLACES, "local", lambda made, names, started: place)
    made = SimpleNamespace(recipe=load_recipe("demo-paper", ["backend=local"]))
    place.branches = {"text": Settled(True), "image": Settled(True)}
    assert placed(made, ["text", "image"]) is place
    place.branches = {"text": Settled(True), "image": Settled(False)}
    with pytest.raises(ModelFolderError, match="different paths: branch text: packed"):
        placed(made, ["text", "image"])
    assert ended == ["all"]


def begin_as_one_model(branches) -> bool:
    """Whether no token of one branch is less or more likely to another."""
    found = finish(measure_behaviour(branches, ["text"], problems=2, ks=(5,)))
    return {kl for row in found.symmetric_kl.values() for kl in row.values()} == {0.0}


def test_branches_begin_as_one_model():
    local = load_recipe("demo-paper", ["backend=local"])
    with assembled(local, print) as made, closing(placed(made, ["text", "image"])) as place:
        assert begin_as_one_model(place.branches)


@pytest.mark.slow
def test_real_processes_are_counted_while_they_stand_and_none_is_left_where_the_base_is_gone(tmp_path):
    base = shutil.copytree(model_folder("builtin:digits"), tmp_path / "base")
    with assembled(load_recipe("demo-paper", ["backend=processes", f"model.path={base}"]), print) as made:
        with closing(OwnProcesses(made, ["text", "image"])) as place:
            standing = set(descendants())
            assert peak().machine + 2 * 2**27 < place.peak().machine
            assert begin_as_one_model(place.branches)
        left = set(descendants())
        assert len(standing - left) == 2
        (base / "model.safetensors").unlink()
        with pytest.raises(ModelFolderError, match=str(base)):
            OwnProcesses(made, ["text", "image"])
        assert set(descendants()) <= left


def descendants() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True)]
