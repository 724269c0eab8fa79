"""Memory that runs out while a branch computes: the system gives no more, and the error says what would help."""

import pickle
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from copd.errors import OutOfMemoryError
from copd.types import Part

MORE = 256 * 2**20
"""Bytes of address space that the process may take beyond those that it has: one tensor of a batch here needs more."""


@contextmanager
def little_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MORE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def branch(make_branch):
    branch = make_branch()
    branch.policy.micro_batch_tokens = 10**9
    branch.policy._cache_tokens = 10**9
    branch.collect("text", 0, 1, 2)  # libraries start their threads before memory is short
    return branch


@pytest.fixture
def large(branch, written, problems_of):
    """More rows in one micro-batch than fit, all of them different."""
    rollouts = written(branch.policy, problems_of["text"], [[300] * 600] * 3)
    reward_N = (torch.arange(1800) % 2).float()
    return replace(rollouts, reward_N=reward_N, correct_N=reward_N == 1)


def test_sampling_says_how_many_tokens_it_wanted_and_which_fields_help(branch):
    with little_memory(), pytest.raises(OutOfMemoryError) as raised:
        branch.collect("text", 0, 256, 256)
    for said in (
        "branch text: out of memory in sampling: 393,216 response tokens, at most 1,000,000,000 tokens at once, on cpu",
        "allocate memory",
        "set sampling.cache_tokens lower than that, or lower sampling.max_new_tokens",
        "`copd plan` tells what each saves",
    ):
        assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_scoring_and_training_name_what_helps_them(branch, large):
    for activity, call, fields in (
        ("scoring", lambda: branch.score(large), "set model.micro_batch_tokens lower"),
        ("scoring", lambda: branch.inspect(large), "set model.micro_batch_tokens lower"),
        ("training", lambda: branch.update([Part("native", large)]), "model.gradient_checkpointing=true"),
    ):
        with little_memory(), pytest.raises(OutOfMemoryError) as raised:
            call()
        assert f"branch text: out of memory in {activity}: 540,000 response tokens" in str(raised.value)
        assert fields in str(raised.value)


def test_after_the_error_the_branch_computes_on_and_the_error_travels(branch, large):
    with little_memory(), pytest.raises(OutOfMemoryError) as raised:
        branch.score(large)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert len(branch.collect("text", 0, 2, 2).tokens_NT) == 4


def test_other_errors_pass_unchanged(branch, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a size that does not fit")

    monkeypatch.setattr(branch.policy, "score", fails)
    with pytest.raises(RuntimeError, match=r"^a size that does not fit$"):
        branch.inspect(branch.collect("text", 0, 1, 2))
