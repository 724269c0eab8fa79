"""A cluster that cannot be joined is told within a bounded time; tests/branches/test_ray.py has those that can be."""

import os
import socket
import time

import pytest

from copd.errors import ProcessError
from copd.system.cluster import SEVERAL_NODES, cluster


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
