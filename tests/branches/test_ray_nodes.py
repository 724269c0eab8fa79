"""Branches on several nodes of Ray, all on this machine: what is told when a node takes with it what others need."""

import asyncio
from functools import partial

import pytest
from ray.cluster_utils import Cluster
from test_processes import NAMES, RECIPE, drawn_here

from copd.assemble.branches import lone_branch
from copd.branches.ray import RayBranch, Resources
from copd.errors import LostBranchError
from copd.system.cluster import cluster
from copd.types import Part

pytestmark = pytest.mark.slow


@pytest.fixture
def on_nodes(monkeypatch):
    """Two branches, each on a node of its own, and how to end the node of one of them."""
    config = {
        "max_direct_call_object_size": 100,  # bytes; what is larger stays in the store of its node
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 2,
    }
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": config})
    try:
        added = [nodes.add_node(num_cpus=1) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with cluster(1):
            makes = {name: partial(lone_branch, RECIPE, name, NAMES.index(name), None) for name in NAMES[:2]}
            actors = [RayBranch(name, make, print, Resources(1, 0), drawn_here()) for name, make in makes.items()]
            handles = [actor.handle() for actor in actors]

            def end(place):
                node = next(each for each in added if each.node_id == actors[place].node)
                nodes.remove_node(node, allow_graceful=False)

            yield handles, end
            for actor in actors:
                actor.close()
    finally:
        nodes.shutdown()


def test_a_branch_whose_node_took_rollouts_and_scores_along_is_named_and_not_the_one_that_was_to_get_them(on_nodes):
    (text, image), end = on_nodes
    said = r"^branch image: its node is gone, with what branch text was to get$"
    given, own = asyncio.run(image.collect("image", 0, 1, 4)), asyncio.run(text.collect("image", 0, 1, 4))
    score = asyncio.run(image.score(own))
    end(1)
    with pytest.raises(LostBranchError, match=said):
        asyncio.run(text.score(given))
    with pytest.raises(LostBranchError, match=said):
        asyncio.run(text.update([Part("from_image", own, 1.0, score)]))
