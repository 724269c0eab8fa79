"""A branch on two and on three ranks, real processes with gloo: all is as on one rank."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from copd.branches.state import read_shards
from copd.compute.ranks import Meeting, joined
from copd.errors import CheckpointError
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.model.sharded import ShardedLearner

pytestmark = pytest.mark.slow
BATCHES = ("text", "image", "video", "mixed")
PROGRAM = Path(__file__).parents[1] / "on_ranks.py"
EVERY = [f"whole {kind} {name}" for kind in BATCHES for name in ("grpo", "sampled", "dense")]
OTHERS = [f"{what} mixed {name}" for what in ("checkpointed", "lora") for name in ("grpo", "sampled", "dense")]
RANKS = [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(count, folder, *kinds):
    common = [str(count), str(free_port()), str(folder), *kinds]
    return [subprocess.Popen([sys.executable, PROGRAM, str(rank), *common]) for rank in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for count, kinds in ((1, BATCHES), (2, BATCHES), (3, ["mixed"])):
        programs = started(count, folder, *kinds)
        assert [program.wait(300) for program in programs] == [0] * len(programs)
    return folder


@pytest.fixture(scope="module")
def one(folder):
    return load_file(folder / "1-0.safetensors")


@pytest.fixture(scope="module", params=RANKS, ids=lambda where: f"rank {where[1]} of {where[0]}")
def rank(request, folder):
    """What a rank has found: how many there are, the tensors, the reports."""
    name = "{}-{}".format(*request.param)
    return (
        request.param[0],
        load_file(folder / f"{name}.safetensors"),
        json.loads((folder / f"{name}.json").read_text()),
    )


def cases(reports, wanted):
    return [case for case in wanted if case in reports]


def under(prefix, tensors):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_gradients_are_those_of_one_rank(rank, one, assert_same):
    count, tensors, reports = rank
    found = cases(reports, EVERY + OTHERS)
    assert len(found) == len(EVERY + OTHERS) - (9 if count == 3 else 0)
    for case in found:
        assert_same(under(f"{case}/gradient", tensors), under(f"{case}/gradient", one), atol=1e-10)


def test_weights_after_two_steps_are_those_of_one_rank_on_every_rank(rank, one, assert_same):
    _, tensors, reports = rank
    for case in reports:
        assert_same(under(f"{case}/weight", tensors), under(f"{case}/weight", one), atol=1e-8)


def test_what_a_step_reports_is_of_all_ranks(rank, folder):
    _, _, reports = rank
    alone = json.loads((folder / "1-0.json").read_text())
    for case, steps in reports.items():
        for found, expected in zip(steps, alone[case], strict=True):
            assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-9)
            assert {**found, "metrics": {}} == {**expected, "metrics": {}}


def test_a_gradient_that_would_be_wrong_would_be_seen(one):
    moved = [max(float(g.abs().max()) for g in under(f"{case}/gradient", one).values()) for case in EVERY]
    silent = {case for case, most in zip(EVERY, moved, strict=True) if most < 1e-3}
    assert silent == {"whole video grpo", "whole video sampled"}


def test_samples_and_scores_are_those_of_one_rank(rank, one):
    _, tensors, _ = rank
    for name in ("tokens", "greedy"):
        assert torch.equal(tensors[name], one[name])
    for name in ("logp", "scored", "whole", "likeliest", "at"):
        torch.testing.assert_close(tensors[name], one[name], rtol=0, atol=1e-12)


def test_any_number_of_ranks_reads_what_another_number_wrote(folder):
    reader = load_file(folder / "3-1.safetensors")
    for count in (1, 2):
        written, found = (
            under("state/", load_file(folder / f"{count}-0.safetensors")),
            under(f"checkpoint-{count}/", reader),
        )
        assert len(written) > 250
        assert found.keys() == {f"checkpoint-{count}/{name}" for name in written}
        for name, tensor in written.items():
            assert torch.equal(found[f"checkpoint-{count}/{name}"], tensor), name
    assert len(list((folder / "checkpoint-2" / "text").iterdir())) == 2


def test_one_process_reads_what_ranks_wrote(folder, policy64):
    learner = Learner(policy64.clone(), learning_rate=1e-3)
    state = {
        **load_file(folder / "checkpoint-3" / "text.safetensors"),
        **read_shards(folder / "checkpoint-3" / "text", learner.blank),
    }
    learner.load_state(state)
    written = under("state/", load_file(folder / "3-0.safetensors"))
    assert written.keys() == {f"state/{name}" for name in learner.state()}
    assert all(torch.equal(tensor, written[f"state/{name}"]) for name, tensor in learner.state().items())


def test_a_damaged_folder_of_ranks_is_named(folder, tmp_path, policy64):
    learner = Learner(policy64.clone(), learning_rate=1e-3)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="text: cannot be read: "):
        read_shards(tmp_path / "text", learner.blank)
    with pytest.raises(CheckpointError, match="text: cannot be read: 'w' is missing"):
        read_shards(folder / "checkpoint-2" / "text", lambda name: {}["w"])


def test_a_rank_that_cannot_write_its_part_of_a_checkpoint_is_told_by_all_ranks(folder):
    for count, rank in RANKS:
        told = (folder / f"{count}-{rank}.txt").read_text()
        assert told == f"{folder}/refused-{count}: cannot be written: [Errno 27] File too large"


def test_the_whole_copy_follows_a_step_that_has_changed_weights_only(policy64, problems_of):
    policy = policy64.duplicate()
    rollouts = policy.sample(problems_of["text"], generator=torch.Generator().manual_seed(1), max_new_tokens=3)
    advantage_N = torch.ones(len(rollouts.tokens_NT), dtype=torch.float64)
    bad = replace(rollouts, logp_NT=rollouts.logp_NT * torch.nan)
    with joined(Meeting(f"127.0.0.1:{free_port()}", 0, 1), torch.device("cpu"), 1) as ranks:
        policy.ranks = ranks
        learner = ShardedLearner(policy, learning_rate=1e-3)
        found = [learner.step([GrpoObjective("grpo", each, 1.0, advantage_N)]).skipped for each in (bad, rollouts)]
        assert found == [True, False]
        assert policy.changes == 1
        for name, weight in policy.trained_parameters().items():
            assert torch.equal(weight, learner.named_parameters[name].full_tensor())
