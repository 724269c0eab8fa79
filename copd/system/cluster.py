"""Ray: the cluster that RAY_ADDRESS names, or one of a run's own. No other module of copd/system imports a library."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants, services
from ray.exceptions import GetTimeoutError, RayError

from copd.errors import ProcessError
from copd.system.processes import usable_cores

ADDRESS = "RAY_ADDRESS"
"""Names a cluster that a run joins."""
SEVERAL_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""What Ray asks, on every system, before its servers bind to more than the loopback address."""
REACHED_SECONDS = 20
"""Time for the head of a cluster to take a connection."""


@contextmanager
def cluster(cores: int) -> Iterator[None]:
    """Ray, while the block lives: the cluster that RAY_ADDRESS names, or one of its own on this machine.

    The own one has room for `cores` even where the machine has fewer, and binds to the loopback address only. Raises
    ProcessError if the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get(ADDRESS)
    common = {"log_to_driver": False, "configure_logging": False}
    alone = {"address": "local", "num_cpus": max(cores, usable_cores()), "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[SEVERAL_NODES] = str(int(bool(address)))  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = bool(address)  # for this process, which read the variable when it imported Ray
    try:
        try:
            if address and "://" not in address:
                _check_reached(address)
            ray.init(**common, **({"address": address} if address else alone))
        except (RayError, OSError, RuntimeError, ValueError) as error:
            where = f"{ADDRESS}={address}: no cluster can be joined there" if address else "Ray does not start here"
            raise ProcessError(f"{where}: {error}") from error
        try:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    if handler is not None:
                        signal.signal(number, handler)  # Ray has put its own in their place
            yield
        finally:
            ray.shutdown()
    finally:
        del os.environ[SEVERAL_NODES]
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_reached(address: str) -> None:
    """Raise OSError or ValueError for an address where nobody listens. Ray would try for minutes, deaf to signals."""
    found = services.canonicalize_bootstrap_address(address)
    at = urlsplit(f"//{found or ''}")
    if at.hostname and at.port:
        with socket.create_connection((at.hostname, at.port), REACHED_SECONDS):
            pass


def are_there(references: Sequence[ray.ObjectRef[Any]], seconds: float) -> bool:
    """Whether all values are there, or the error of one, after so many seconds at most."""
    done, waiting = wait([reference.future() for reference in references], seconds, FIRST_EXCEPTION)
    return not waiting or any(future.exception() for future in done)


def got(references: Sequence[ray.ObjectRef[Any]], seconds: float | None = None) -> list[Any]:
    """The values of references, as by `ray.get`. That turns whatever a signal's handler raises into SystemExit(1).

    Raises the error of the first that fails, and GetTimeoutError after so many seconds.
    """
    futures = [reference.future() for reference in references]
    done, waiting = wait(futures, seconds, FIRST_EXCEPTION)
    for future in done:
        future.result()
    if waiting:
        raise GetTimeoutError(f"{len(waiting)} of {len(futures)} are not there after {seconds} s")
    return [future.result() for future in futures]


def cards_for(device: str) -> int:
    """How many cards a branch on this device asks for; `auto` asks for one where the cluster has any."""
    if device == "auto":
        return int(ray.cluster_resources().get("GPU", 0) > 0)
    return int(device.startswith("cuda"))


def room_for(cores: int, cards: int) -> int:
    """How many processes that each ask for so many cores and cards have room on the cluster's nodes, at least one.

    Those that ask for no card: one.
    """
    if not cards:
        return 1
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(int(min(node.get("GPU", 0) // cards, node.get("CPU", 0) // cores)) for node in nodes))
