"""Samples and scores in shares, with ranks that one process plays one after the other."""

import os
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
import pytest
import torch

from copd.compute.logprobs import response_score
from copd.compute.ranks import ALONE, Meeting, Ranks, joined, sampled, scored
from copd.model import builtin_sampler


@dataclass(frozen=True)
class Played(Ranks):
    """A rank that is told what the others have to say, or leaves when it has said its own."""

    told: list[Any] | None = None
    said: list[Any] = field(default_factory=list)

    def gathered(self, value):
        self.said.append(value)
        if self.told is None:
            raise StopIteration
        return self.told


def on_ranks(count, call):
    """What each of so many ranks returns."""
    said: list[Any] = []
    for rank in range(count):
        with pytest.raises(StopIteration):
            call(Played(rank, count, said=said))
    return [call(Played(rank, count, told=said[:count])) for rank in range(count)]


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8])
def test_shares_are_all_places_in_order_and_differ_by_one_at_most(length):
    shares = [Ranks(rank, 3).share(length) for rank in range(3)]
    assert [place for share in shares for place in share] == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", [None, 4])
def test_ranks_sample_what_one_samples(ending64, problems_of, count, seed):
    def draw(ranks):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        asked = {"rollouts_per_prompt": 4, "max_new_tokens": 6, "temperature": 1.0, "generator": generator}
        return sampled(ranks, partial(builtin_sampler.sample, ending64), problems_of["text"], **asked)

    one = draw(ALONE)
    for found in on_ranks(count, draw):
        for name in ("tokens_NT", "mask_NT", "finished_N", "prompt_of_N"):
            assert torch.equal(getattr(found, name), getattr(one, name)), name
        torch.testing.assert_close(found.logp_NT, one.logp_NT, rtol=0, atol=1e-12)
        assert (found.problems, found.temperature, found.cut) == (one.problems, one.temperature, one.cut)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_ranks_score_what_one_scores(ending64, policy64, problems_of, count):
    generator = torch.Generator().manual_seed(1)
    rollouts = ending64.sample(problems_of["image"], rollouts_per_prompt=2, generator=generator, max_new_tokens=6)
    assert len(set(rollouts.mask_NT.sum(-1).tolist())) > 1
    ids_NTK = (torch.arange(3 * rollouts.tokens_NT.numel()) % 100).view(*rollouts.tokens_NT.shape, 3)

    def score(ranks):
        asked = {"ids_NTK": ids_NTK, "k": 2, "whole": True, "version": 7}
        return scored(ranks, partial(response_score, policy64), rollouts, **asked)

    one = score(ALONE)
    for found in on_ranks(count, score):
        assert found.version == 7
        for name in ("logp_NT", "topk_ids_NTK", "topk_logp_NTK", "at_ids_NTK", "whole_MV"):
            torch.testing.assert_close(getattr(found, name), getattr(one, name), rtol=0, atol=1e-12)


def test_the_only_rank_has_what_it_makes_and_raises_what_fails():
    assert ALONE.gathered("value") == ["value"]
    assert ALONE.first(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 / 0)


def listening():
    """Where this process listens."""
    return {each.laddr for each in psutil.Process().net_connections("inet") if each.status == psutil.CONN_LISTEN}


def test_ranks_that_meet_on_the_loopback_address_listen_there_alone(monkeypatch):
    variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in variables:
        monkeypatch.setenv(name, "removed again at the end")
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    before = listening()
    with joined(Meeting(f"127.0.0.1:{port}", 0, 1), torch.device("cpu"), 1):
        found = listening() - before
        interfaces = [psutil.net_if_addrs()[os.environ[name]] for name in variables]
    assert ("127.0.0.1", port) in found
    assert {address for address, _ in found} == {"127.0.0.1"}
    assert all("127.0.0.1" in [each.address for each in interface] for interface in interfaces)
