"""The parts of a run, put together and taken apart."""

import pytest

from copd.assemble.places import PLACES
from copd.commands.train import train
from copd.recipe.reading import load_recipe


def test_branches_end_where_the_base_cannot_be_evaluated_beside_them(tmp_path, monkeypatch):
    closed = []

    class Standing:
        def __init__(self, made, names):
            self.branches = dict.fromkeys(names)

        def evaluated(self, name, policy):
            raise MemoryError(name)

        def close(self):
            closed.append(self)

    monkeypatch.setitem(PLACES, "local", Standing)
    with pytest.raises(MemoryError, match="base"):
        train(load_recipe("demo", ["backend=local"]), tmp_path / "run")
    assert len(closed) == 1
