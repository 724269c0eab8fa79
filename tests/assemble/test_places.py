"""Where the branches of a run live: what is left where one of them cannot be built."""

from multiprocessing import resource_tracker

import psutil
import pytest

from copd.assemble.assembled import assembled
from copd.assemble.places import OwnProcesses
from copd.recipe.reading import load_recipe


def running() -> set[int]:
    """The processes that this one has started, but the helper of multiprocessing, which lives as long as it does."""
    children = psutil.Process().children(recursive=True)
    return {each.pid for each in children if each.pid != resource_tracker._resource_tracker._pid}


def test_where_one_branch_cannot_be_built_the_processes_of_all_end():
    branches = "branches={text: {task: {capability: text}}, image: {task: {capability: image}, device: 'cuda:99'}}"
    recipe = load_recipe("demo", ["backend=processes", "model.threads_per_branch=1", branches])
    before = running()
    with assembled(recipe, print) as made, pytest.raises(Exception, match=r"CUDA|cuda"):
        OwnProcesses(made, ("text", "image"))
    assert running() <= before
