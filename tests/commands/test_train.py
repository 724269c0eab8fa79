"""The parts of a run, put together and taken apart."""

import pytest

from copd.assemble.places import PLACES
from copd.commands.train import train
from copd.errors import LostBranchError, ProcessError
from copd.recipe.reading import load_recipe


def test_branches_end_where_the_base_cannot_be_evaluated_beside_them(tmp_path, monkeypatch):
    closed = []

    class Standing:
        def __init__(self, made, names, started):
            self.branches = {}

        def evaluated(self, name, policy):
            raise MemoryError(name)

        def close(self):
            closed.append(self)

    monkeypatch.setitem(PLACES, "local", Standing)
    with pytest.raises(MemoryError, match="base"):
        train(load_recipe("demo-paper", ["backend=local"]), tmp_path / "run")
    assert len(closed) == 1


@pytest.mark.parametrize(("error", "begun"), [(LostBranchError, 3), (ProcessError, 1)])
def test_a_lost_branch_is_begun_anew_and_one_that_has_no_place_is_not(tmp_path, monkeypatch, error, begun):
    places = []

    class Lacking:
        def __init__(self, made, names, started):
            places.append(names)
            raise error("branch text: is not there")

    monkeypatch.setitem(PLACES, "local", Lacking)
    with pytest.raises(error, match=r"^branch text: is not there"):
        train(load_recipe("demo-paper", ["backend={kind: local, restarts: 2}"]), tmp_path / "run")
    assert len(places) == begun
