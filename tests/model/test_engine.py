"""Sampling by another engine: which weights it holds, what its seeds are, and that faults are found.

The engine of these tests is a second policy with weights of its own.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from copd.compute.ranks import Ranks
from copd.errors import RecipeError
from copd.maths.cut import WHOLE, Cut
from copd.model import engine
from copd.model.engine import Answers, EngineSampler, Sampled, rollouts_of
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective


class Twin:
    """An engine that samples by a copy of the policy."""

    name = "twin"

    def __init__(self, policy, *, forgets=False, stale_after=10_000, off=0.0, other_prompts=False):
        self.policy, self.forgets, self.stale_after = policy.clone(), forgets, stale_after
        self.off, self.other_prompts = off, other_prompts
        self.taken = 0
        self.seeds, self.cuts = [], []

    def take(self, policy):
        self.taken += 1
        if self.taken <= self.stale_after:
            self.policy.load_weights(policy.weights())

    def generate(self, policy, problems, seeds_P, **asked):
        self.seeds.append(seeds_P)
        self.cuts.append(asked["cut"])
        answers = []
        for place, problem in enumerate(problems):
            generator = None if seeds_P is None else torch.Generator().manual_seed(seeds_P[place])
            rollouts = self.policy.sample([problem], generator=generator, **asked)
            ids = policy.encoder.encode([problem], policy.device).ids_PS[0].tolist()
            responses = [
                Sampled(tokens_T[mask_T].tolist(), (logp_T[mask_T] + self.off).tolist(), bool(finished))
                for tokens_T, mask_T, logp_T, finished in zip(
                    rollouts.tokens_NT, rollouts.mask_NT, rollouts.logp_NT, rollouts.finished_N, strict=True
                )
            ]
            answers.append(Answers(ids[1:] if self.other_prompts else ids, responses))
        return answers

    def rest(self):
        return not self.forgets


@dataclass(frozen=True)
class Last(Ranks):
    """The second of two ranks, of which the first has nothing to say."""

    rank: int = 1
    count: int = 2
    said: list[Any] = field(default_factory=list)

    def gathered(self, value):
        self.said.append(value)
        return [None, value]


@pytest.fixture
def sampled_by(policy, problems_of):
    """A policy for which a twin samples, and the twin."""

    def make(**options):
        own, twin = policy.clone(), Twin(policy, **options)
        own.sampler = EngineSampler(twin, problems_of["text"][:1], 1.0)
        return own, twin

    return make


def sample(policy, problems, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(problems, generator=generator, max_new_tokens=2, **options)


def changed(policy, by=0.05):
    return {name: weight + by * torch.randn_like(weight) for name, weight in policy.weights().items()}


def stepped(policy, problems, learning_rate):
    rollouts = sample(policy, problems, rollouts_per_prompt=2)
    advantage_N = torch.linspace(-1, 1, len(rollouts.tokens_NT))
    Learner(policy, learning_rate=learning_rate).step([GrpoObjective("native", rollouts, 1.0, advantage_N)])


def test_weights_are_taken_over_only_when_the_policy_has_changed(sampled_by, problems_of):
    policy, twin = sampled_by()
    for expected, act in ((1, None), (1, None), (2, "load"), (2, None), (3, "step"), (3, None)):
        if act == "load":
            policy.load_weights(changed(policy))
        if act == "step":
            stepped(policy, problems_of["text"], 1e-3)
        rollouts = sample(policy, problems_of["text"])
        assert twin.taken == expected
        torch.testing.assert_close(rollouts.logp_NT, policy.score(rollouts).logp_NT, atol=1e-5, rtol=0)


def test_a_step_that_changes_nothing_takes_nothing_over(sampled_by, problems_of):
    policy, twin = sampled_by()
    rollouts = sample(policy, problems_of["text"])
    bad = GrpoObjective("native", replace(rollouts, logp_NT=rollouts.logp_NT * math.nan), 1.0, torch.ones(3))
    assert Learner(policy, learning_rate=1e-3).step([bad]).skipped
    sample(policy, problems_of["text"])
    assert twin.taken == 1


def test_a_restored_learner_has_its_weights_taken_over(sampled_by, problems_of):
    policy, twin = sampled_by()
    learner = Learner(policy, learning_rate=1e-3)
    sample(policy, problems_of["text"])
    learner.load_state(learner.state())
    sample(policy, problems_of["text"])
    assert twin.taken == 2


def test_each_of_two_policies_is_sampled_with_its_own_weights(sampled_by, problems_of):
    policy, twin = sampled_by()
    other = policy.clone()
    policy.load_weights(policy.weights())
    other.load_weights(changed(other))
    assert other.changes == policy.changes
    other.sampler = policy.sampler
    for each in (policy, other, policy):
        rollouts = sample(each, problems_of["text"])
        torch.testing.assert_close(rollouts.logp_NT, each.score(rollouts).logp_NT, atol=1e-5, rtol=0)
    assert twin.taken == 3


def test_an_engine_that_gives_its_weights_up_takes_them_over_each_time(sampled_by, problems_of):
    policy, twin = sampled_by(forgets=True)
    for _ in range(3):
        sample(policy, problems_of["text"])
    assert twin.taken == 3


@pytest.mark.parametrize("off", [0.01, math.nan, -math.inf])
def test_log_probs_that_are_not_the_policys_are_refused_before_anything_is_trained(sampled_by, off):
    policy, _ = sampled_by(off=off)
    with pytest.raises(RecipeError, match=r"^sampling\.engine: .* of twin differ from the trainer's by"):
        policy.sampler.prove(policy)


def test_an_engine_samples_from_the_cut_distribution_and_is_checked_on_the_whole(sampled_by, problems_of):
    policy, twin = sampled_by()
    policy.sampler.prove(policy)
    rollouts = sample(policy, problems_of["text"], cut=Cut(top_k=2))
    assert twin.cuts == [WHOLE, Cut(top_k=2)]
    assert rollouts.cut
    likeliest_MK = policy.score(rollouts, k=2).topk_logp_NTK[rollouts.mask_NT]
    expected_M = policy.score(rollouts).logp_NT[rollouts.mask_NT] - likeliest_MK.logsumexp(-1)
    torch.testing.assert_close(rollouts.logp_NT[rollouts.mask_NT], expected_M, atol=1e-5, rtol=0)


def test_what_an_engine_samples_behind_a_stop_string_is_dropped(sampled_by, problems_of):
    policy, twin = sampled_by()
    generate = twin.generate
    twin.generate = lambda *given, stop, **asked: generate(*given, stop=(), **asked)
    twin_of = {"generator": torch.Generator().manual_seed(0), "rollouts_per_prompt": 3, "max_new_tokens": 6}
    free = policy.sample(problems_of["text"], **twin_of)
    row = int((~free.finished_N).nonzero()[0])
    stop = policy.texts(free)[row][3]
    twin_of["generator"].manual_seed(0)
    found = policy.sample(problems_of["text"], **twin_of, stop=[stop])
    text = policy.texts(found)[row]
    assert text == policy.texts(free)[row][: len(text)]
    assert text.endswith(stop)
    assert text.count(stop) == 1
    assert bool(found.finished_N[row])
    torch.testing.assert_close(found.logp_NT, policy.score(found).logp_NT, atol=1e-5, rtol=0)


def test_a_proven_engine_holds_the_weights(sampled_by, problems_of):
    policy, twin = sampled_by()
    policy.sampler.prove(policy)
    sample(policy, problems_of["text"])
    assert twin.taken == 1


def test_weights_that_became_stale_are_found_at_the_next_check(sampled_by, problems_of, monkeypatch):
    monkeypatch.setattr(engine, "CHECKED_EVERY", 3)
    policy, twin = sampled_by(forgets=True, stale_after=1)
    policy.sampler.prove(policy)
    policy.load_weights(changed(policy))
    for _ in range(2):
        sample(policy, problems_of["text"][:1])
    with pytest.raises(RecipeError, match="twin differ"):
        sample(policy, problems_of["text"][:1])
    assert twin.taken == 4


def test_a_rank_checks_its_engine_without_the_other_ranks(sampled_by, problems_of):
    policy, twin = sampled_by()
    policy.ranks = Last()
    policy.sampler.prove(policy)
    assert policy.ranks.said == []
    policy.load_weights(changed(policy))
    policy.sampler._taken = engine.CHECKED_EVERY
    rollouts = sample(policy, problems_of["text"][:1])
    assert len(twin.seeds) == 3, "a check has to come before the samples"
    ((tokens_NT, *_),) = policy.ranks.said
    assert torch.equal(tokens_NT, rollouts.tokens_NT)


def test_a_prompt_that_is_read_as_other_tokens_is_refused(sampled_by, problems_of):
    policy, _ = sampled_by(other_prompts=True)
    with pytest.raises(RecipeError, match=f"twin reads the prompt of {problems_of['text'][0].id!r} as other tokens"):
        sample(policy, problems_of["text"])


def test_each_prompt_has_its_own_seed_which_the_generator_gives(sampled_by, problems_of):
    policy, twin = sampled_by()
    drawn = [sample(policy, problems_of["text"], seed=seed) for seed in (0, 0, 1)]
    seeds = twin.seeds[-3:]
    assert len({*seeds[0], *seeds[2]}) == 2 * len(problems_of["text"])
    assert seeds[0] == seeds[1]
    assert torch.equal(drawn[0].tokens_NT, drawn[1].tokens_NT)


def test_without_a_generator_the_likeliest_tokens_are_asked_for(sampled_by, problems_of):
    policy, twin = sampled_by()
    greedy = policy.sample(problems_of["text"], max_new_tokens=2)
    assert twin.seeds[-1] is None
    policy.sampler = None
    assert torch.equal(greedy.tokens_NT, policy.sample(problems_of["text"], max_new_tokens=2).tokens_NT)


def test_lr_zero_shows_no_drift(sampled_by, problems_of):
    policy, _ = sampled_by()
    before = sample(policy, problems_of["text"])
    stepped(policy, problems_of["text"], 0.0)
    after = sample(policy, problems_of["text"])
    assert torch.equal(before.tokens_NT, after.tokens_NT)
    assert torch.equal(before.logp_NT, after.logp_NT)


def test_answers_become_rollouts_whose_padding_is_zero(problems_of):
    answers = [
        Answers([7], [Sampled([5, 6, 2], [-1.0, -2.0, -0.5], True), Sampled([9], [-3.0], False)]),
        Answers([8, 8], [Sampled([2], [-0.25], True)]),
    ]
    rollouts = rollouts_of(problems_of["text"][:2], answers, 0.5)
    assert rollouts.tokens_NT.tolist() == [[5, 6, 2], [9, 0, 0], [2, 0, 0]]
    assert rollouts.mask_NT.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert rollouts.logp_NT.tolist() == [[-1.0, -2.0, -0.5], [-3.0, 0.0, 0.0], [-0.25, 0.0, 0.0]]
    assert rollouts.finished_N.tolist() == [True, False, True]
    assert rollouts.prompt_of_N.tolist() == [0, 0, 1]
    assert rollouts.temperature == 0.5
    assert rollouts.problems == problems_of["text"][:2]
