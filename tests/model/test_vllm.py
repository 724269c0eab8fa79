"""vLLM samples for the tiny model: on text, images and video, before and after it takes over other weights.

Needs an environment with vLLM, which `make test-vllm` makes.
"""

import json
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from copd.maths.cut import Cut, remaining
from copd.model.engine import EngineSampler
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import GrpoObjective
from copd.model.vllm_sampler import VllmEngine, check_installed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; run: make test-vllm"),
]
TOLERANCE = 1e-4
"""Nats, in float32."""


@pytest.fixture(scope="module")
def engine():
    """One engine for all policies, which are all of one kind."""
    return VllmEngine(0.25)


@pytest.fixture
def sampled(policy, engine, problems_of):
    """A random policy for which vLLM samples, and which takes over its weights at the first call."""
    own = policy.clone()
    own.sampler = EngineSampler(engine, [problems[0] for problems in problems_of.values()], 1.0)
    return own


def sample(policy, problems, seed=0, tokens=8, **options):
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(problems, generator=generator, max_new_tokens=tokens, **options)


def difference(policy, rollouts):
    return float((rollouts.logp_NT - policy.score(rollouts).logp_NT).abs().max())


def other_weights(policy):
    torch.manual_seed(1)
    policy.load_weights({name: weight + 0.02 * torch.randn_like(weight) for name, weight in policy.weights().items()})


def step(policy, rollouts, learning_rate):
    advantage_N = torch.linspace(-1, 1, len(rollouts.tokens_NT))
    Learner(policy, learning_rate=learning_rate).step([GrpoObjective("native", rollouts, 1.0, advantage_N)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_trainers_before_and_after_the_weights_change(sampled, problems_of, kind, temperature):
    before = sample(sampled, problems_of[kind], rollouts_per_prompt=3, temperature=temperature)
    assert difference(sampled, before) < TOLERANCE
    other_weights(sampled)
    assert difference(sampled, before) > 0.01, "the old responses are not those of the new weights"
    after = sample(sampled, problems_of[kind], rollouts_per_prompt=3, temperature=temperature)
    assert difference(sampled, after) < TOLERANCE


@pytest.mark.parametrize("cut", [Cut(top_k=3), Cut(top_p=0.6), Cut(top_p=0.9, top_k=20, min_p=0.01)])
def test_log_probs_of_a_cut_distribution_are_those_of_what_is_left_of_the_trainers(sampled, problems_of, cut):
    rollouts = sample(sampled, problems_of["text"], rollouts_per_prompt=3, cut=cut)
    left_MV = remaining(sampled.score(rollouts, whole=True).whole_MV, cut)
    expected_M = left_MV.gather(-1, rollouts.tokens_NT[rollouts.mask_NT][:, None])[:, 0]
    torch.testing.assert_close(rollouts.logp_NT[rollouts.mask_NT], expected_M, atol=TOLERANCE, rtol=0)


def test_a_response_ends_with_the_token_that_completes_a_stop_string(sampled, problems_of):
    free = sample(sampled, problems_of["text"], tokens=12)
    stop = sampled.texts(free)[0][4:6]
    found = sample(sampled, problems_of["text"], tokens=12, stop=[stop])
    assert sampled.texts(found)[0] == sampled.texts(free)[0][: sampled.texts(free)[0].index(stop) + 2]
    assert bool(found.finished_N[0])
    assert difference(sampled, found) < TOLERANCE


def test_after_optimizer_steps_the_log_probs_are_those_of_the_new_weights(sampled, problems_of):
    problems = [problems[0] for problems in problems_of.values()]
    for _ in range(3):
        rollouts = sample(sampled, problems, rollouts_per_prompt=2)
        assert difference(sampled, rollouts) < TOLERANCE
        step(sampled, rollouts, 1e-3)
    assert difference(sampled, rollouts) > 10 * TOLERANCE


def test_a_learning_rate_of_zero_shows_no_drift(sampled, problems_of, kind):
    before = sample(sampled, problems_of[kind])
    for _ in range(3):
        step(sampled, before, 0.0)
        after = sample(sampled, problems_of[kind])
        assert torch.equal(before.tokens_NT, after.tokens_NT)
        torch.testing.assert_close(before.logp_NT, after.logp_NT, atol=1e-5, rtol=0)


def test_greedy_answers_are_those_of_the_model_itself(sampled, problems_of, kind):
    answers = sampled.texts(sampled.sample(problems_of[kind], max_new_tokens=8))
    sampled.sampler = None
    assert answers == sampled.texts(sampled.sample(problems_of[kind], max_new_tokens=8))


def test_a_seed_gives_the_same_responses_again_and_a_group_holds_different_ones(sampled, problems_of):
    first, again, other = (sample(sampled, problems_of["text"], seed, rollouts_per_prompt=4) for seed in (0, 0, 1))
    assert torch.equal(first.tokens_NT, again.tokens_NT)
    rows = [tuple(tokens) for each in (first, other) for tokens in each.tokens_NT.tolist()]
    assert len(set(rows)) == len(rows) == 24


def test_more_prompt_tokens_are_sampled_after_than_one_pass_takes(sampled, problems_of):
    rollouts = sample(sampled, problems_of["text"], tokens=2, rollouts_per_prompt=200)
    assert int(rollouts.mask_NT.sum()) > 600
    assert difference(sampled, rollouts) < TOLERANCE


def test_only_tokens_that_the_mask_allows_are_sampled_and_a_response_ends_with_an_end_token(
    ending, engine, problems_of
):
    ending = ending.clone()
    ending.sampler = EngineSampler(engine, problems_of["text"][:1], 1.0)
    rollouts = sample(ending, problems_of["text"], rollouts_per_prompt=16, tokens=12)
    tokens_M = rollouts.tokens_NT[rollouts.mask_NT]
    assert not ending.banned_V[tokens_M].any()
    last_N = rollouts.tokens_NT[torch.arange(len(rollouts.tokens_NT)), rollouts.mask_NT.sum(-1) - 1]
    assert torch.equal(torch.isin(last_N, ending.end_ids), rollouts.finished_N)
    assert 0 < int(rollouts.finished_N.sum()) < len(rollouts.finished_N)
    assert difference(ending, rollouts) < TOLERANCE


def test_an_adapter_is_part_of_what_is_sampled(sampled, problems_of):
    adapted = sampled.with_adapter("a", LoraSettings(4, 8.0, ["q_proj", "down_proj"]), seed=0)
    adapted.sampler = sampled.sampler
    with torch.no_grad():
        for name, parameter in adapted.trained_parameters().items():
            parameter.add_(0.1 * torch.randn_like(parameter) * ("lora_B" in name))
    for policy in (adapted, sampled):
        rollouts = sample(policy, problems_of["image"], rollouts_per_prompt=2)
        assert difference(policy, rollouts) < TOLERANCE
    assert difference(adapted, rollouts) > 0.01


def test_torch_has_its_threads_after_the_engine_has_begun(sampled, problems_of):
    sample(sampled, problems_of["text"])
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.get_default_dtype() == torch.float32


def test_a_short_run_ends_and_its_record_names_the_engine(tmp_path, command):
    changes = [
        "sampling={engine: vllm, vllm_cache_gib: 0.25, prompts_per_step: 2}",
        "schedule={cycles: 1, rl_steps: 2, opd_steps: 1}",
        "opd.prompts_per_step=2",
        "evaluation={problems: 4, validation_problems: 2, behaviour_problems: 2}",
        "backend=local",
    ]
    done = command("train", "demo-paper", *changes, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["versions"]["vllm"] == check_installed()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    assert len(updates) == 9
    for update in updates:
        assert update.get("native/effective_share", 1.0) == pytest.approx(1.0, abs=1e-3)
        assert update.get("native/logp_mismatch", 0.0) < TOLERANCE
    assert any("from_text/effective_share" in update for update in updates)


def test_each_rank_of_a_branch_samples_its_share_by_an_engine_of_its_own(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(__file__).parents[1] / "vllm_on_ranks.py"
    ranks = [
        subprocess.Popen(
            [sys.executable, program, str(rank), "2", port, str(tmp_path / f"{rank}.json")], stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=600)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert not any("Traceback" in each for each in said), said
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert [len(each["tokens"]) for each in first] == [6, 6]
    assert all(each["apart"] < TOLERANCE for each in first), "also after the engines took over other weights"
