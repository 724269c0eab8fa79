"""A whole run on Ray that is stopped and resumed has the bits of one on processes that nobody disturbed."""

import os
from functools import partial
from signal import SIGTERM

import pytest
from checkpoints import tensors_of
from test_run import HARDLY_MEASURED, SMALL, TWO_BRANCHES, record
from test_stopping import Signalling

from copd.commands.train import train
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.lifecycle import Stopped

TINY = [
    *SMALL,
    HARDLY_MEASURED,
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 12}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
    "checkpoint={every_steps: 100, keep_last: 2}",
]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "foreground")]


@pytest.mark.parametrize("changes", [[TWO_BRANCHES % 1.0], []], ids=["two branches", "three branches"])
def test_a_run_on_ray_that_is_stopped_and_resumed_ends_as_one_on_processes(changes, tmp_path, assert_same):
    on_processes, on_ray = (
        load_recipe("demo-paper", [*TINY, *changes, f"backend.kind={kind}"]) for kind in ("processes", "ray")
    )
    there = train(on_processes, tmp_path / "processes")
    with pytest.raises(Stopped):
        train(on_ray, tmp_path / "ray", screen=Signalling(partial(os.kill, os.getpid(), SIGTERM), "updated", 3))
    assert 0 < latest_checkpoint(tmp_path / "ray" / "checkpoints").step < 4
    here = train(on_ray, tmp_path / "ray", resume=True)
    assert record(here) == record(there)
    for name in ("samples.jsonl", "answers.jsonl", "merged/model.safetensors"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    ours, theirs = (latest_checkpoint(folder / "checkpoints") for folder in (here, there))
    assert (ours.step, list(ours.branches)) == (theirs.step, list(on_ray.branches))
    for branch in theirs.branches:
        assert_same(tensors_of(ours, branch), tensors_of(theirs, branch))
