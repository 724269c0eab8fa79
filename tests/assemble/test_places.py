"""Where the branches of a run live: what is left where one of them cannot be built, and the memory of all."""

from types import SimpleNamespace

import pytest

from copd.assemble.places import OwnProcesses
from copd.errors import ModelFolderError
from copd.system.processes import Memory, peak

BUILT = {"text": Memory(2**33), "image": Memory(2**34), "video": ModelFolderError("no such device")}
"""What processes of branches hold once they stand, or why one does not; tests/branches/ has real ones."""


@pytest.fixture
def closed(monkeypatch) -> list[str]:
    """The processes that have been ended of those that stand where real ones would."""
    ended = []

    class Standing:
        def __init__(self, name, make, warn):
            self.name, self.peak = name, BUILT[name]

        def handle(self):
            if isinstance(self.peak, Exception):
                raise self.peak
            return self.name

        def close(self):
            ended.append(self.name)

    monkeypatch.setattr("copd.assemble.places.BranchProcess", Standing)
    return ended


def place_of(*names: str) -> OwnProcesses:
    made = SimpleNamespace(recipe=None, inheritance=None, warn=print)
    return OwnProcesses(made, names)


def test_where_one_branch_cannot_be_built_the_processes_of_all_end(closed):
    with pytest.raises(ModelFolderError, match="no such device"):
        place_of("text", "video", "image")
    assert sorted(closed) == ["image", "text", "video"]


def test_the_processes_of_branches_are_counted_beside_that_of_the_run(closed):
    place = place_of("text", "image")
    assert peak().machine <= place.peak().machine - 2**33 - 2**34 < 2 * peak().machine
    place.close()
    assert sorted(closed) == ["image", "text"]
