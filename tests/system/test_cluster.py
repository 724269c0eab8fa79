"""A cluster that cannot be joined is told within a bounded time; tests/branches/test_ray.py has those that can be."""

import os
import socket
import time

import pytest

from copd.errors import ProcessError
from copd.system.cluster import SEVERAL_NODES, cluster, room_for


def unused_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:PORT", "refused"),
        ("no-such-host.invalid:6379", "resolution|not known|No address"),
        ("nonsense", "Invalid address format: nonsense"),
    ],
)
def test_an_address_where_nobody_listens_is_told_at_once(monkeypatch, address, said):
    address = address.replace("PORT", str(unused_port()))
    monkeypatch.setenv("RAY_ADDRESS", address)
    begun = time.monotonic()
    said = f"^RAY_ADDRESS={address}: no cluster can be joined there: .*({said})"
    with pytest.raises(ProcessError, match=said), cluster(1):
        pass
    assert time.monotonic() - begun < 60
    assert SEVERAL_NODES not in os.environ


def test_there_is_room_for_as_many_as_the_cards_and_cores_of_each_node_allow(monkeypatch):
    nodes = [("GPU", 8, 32, True), ("GPU", 2, 64, True), ("TPU", 4, 64, True), ("GPU", 8, 64, False)]
    made = [{"Alive": alive, "Resources": {kind: cards, "CPU": cores}} for kind, cards, cores, alive in nodes]
    monkeypatch.setattr("copd.system.cluster.ray.nodes", lambda: made)
    assert [room_for(cores, 1) for cores in (4, 8, 100)] == [10, 6, 1]
    assert room_for(4, 0) == 1
