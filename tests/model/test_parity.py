"""The check at start: models that bear a shared prefix keep it, others take the plain path."""

import pytest
import torch
from torch.backends.cpu import get_cpu_capability

from copd.compute.windows import Window, Windows
from copd.errors import ModelFolderError
from copd.model.parity import TOLERANCE_NATS, largest_difference, settle_path, settled_path


def spoiled(policy, spoil):
    """A policy whose language model changes its inputs wherever it goes on from a cache."""
    policy = policy.clone()

    def change(module, args, inputs):
        cache = inputs["past_key_values"]
        return (args, {**inputs, **spoil(inputs)}) if cache is not None and cache.get_seq_length() > 0 else None

    policy.model.get_decoder().register_forward_pre_hook(change, with_kwargs=True)
    return policy


@pytest.fixture
def without_a_cache(policy):
    """A policy whose language model takes no cache and returns none."""
    policy = policy.clone()
    policy.model.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: (args, {**inputs, "past_key_values": None, "use_cache": False}), with_kwargs=True
    )
    return policy


def displaced(policy):
    return spoiled(policy, lambda inputs: {"position_ids": inputs["position_ids"] + 40})


def test_the_shared_prefix_agrees_with_the_plain_path_and_stays_on(policy, problems_of, kind):
    assert largest_difference(policy, problems_of[kind]) < 1e-5
    twin = policy.clone()
    assert settle_path(twin, problems_of[kind], allow_plain_path=True) is None
    assert twin.shared_prefix


def test_a_model_that_counts_positions_otherwise_after_a_cache_takes_the_plain_path(policy, written, problems_of):
    wrong = displaced(policy)
    warning = settle_path(wrong, problems_of["text"], allow_plain_path=True)
    assert not wrong.shared_prefix
    assert "differ from the plain forward's" in warning
    assert "plain path" in warning
    rollouts = written(policy, problems_of["text"])
    torch.testing.assert_close(wrong.score(rollouts).logp_NT, policy.score(rollouts).logp_NT, atol=1e-5, rtol=0)


def test_a_doubt_about_a_family_that_is_known_to_share_is_an_error_with_the_difference_and_the_field(
    policy, problems_of
):
    wrong = displaced(policy)
    with pytest.raises(ModelFolderError, match=r"by \d.* nats .*qwen3_vl is known to share.*model\.allow_plain_path"):
        settle_path(wrong, problems_of["text"], allow_plain_path=False)


def test_where_the_plain_path_is_taken_the_doubt_is_told_with_the_place_of_the_check(policy, problems_of):
    assert settled_path(policy).described.startswith("packed (cpu with ")
    wrong = displaced(policy)
    settle_path(wrong, problems_of["text"], allow_plain_path=True)
    path = settled_path(wrong.clone())
    assert (path.shared_prefix, path.checked_on) == (False, f"cpu with {get_cpu_capability()} in float32")
    assert path.described == f"plain path ({path.checked_on}: {path.doubt})"
    assert "differ from the plain forward's by" in path.doubt


def test_a_device_without_room_for_the_check_is_no_doubt_about_the_model(policy, problems_of, monkeypatch):
    def greedy(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    twin = policy.clone()
    monkeypatch.setattr(twin, "score", greedy)
    with pytest.raises(ModelFolderError, match=r"memory of cpu does not hold the check.*2 GiB\. `copd plan` tells"):
        settle_path(twin, problems_of["text"], allow_plain_path=True)
    assert twin.shared_prefix


def test_the_difference_of_a_wrong_shared_prefix_is_far_above_the_tolerance(policy, problems_of):
    assert largest_difference(displaced(policy), problems_of["text"]) > 10 * TOLERANCE_NATS[None]


def test_a_model_whose_sampler_alone_is_wrong_takes_the_plain_path(policy, problems_of):
    wrong = spoiled(
        policy,
        lambda inputs: {"position_ids": inputs["position_ids"] + 40} if inputs["position_ids"].shape[-1] == 1 else {},
    )
    assert "differ from the plain forward's" in settle_path(wrong, problems_of["text"], allow_plain_path=True)
    assert not wrong.shared_prefix


def test_a_model_whose_log_probs_are_not_a_number_takes_the_plain_path(policy, problems_of):
    broken = spoiled(policy, lambda inputs: {"position_ids": inputs["position_ids"] * torch.nan})
    assert "by nan nats" in settle_path(broken, problems_of["text"], allow_plain_path=True)
    assert not broken.shared_prefix


def test_a_model_that_bears_no_packing_shares_prompts_in_sampling_alone(policy, problems_of, written):
    """One that sees every earlier token of a sequence, whatever it is told."""
    deaf = policy.clone()

    def change(module, args, inputs):
        if "seen" not in inputs:
            return None
        tokens = inputs["inputs_embeds"].shape[1]
        real_1X = torch.ones(1, tokens, dtype=torch.bool)
        sees_1XX = torch.ones(1, tokens, tokens, dtype=torch.bool).tril()
        everything = Window(torch.arange(tokens)[None], real_1X, sees_1XX)
        return args, {**inputs, "seen": Windows([everything], tokens, torch.device("cpu"))}

    deaf.model.get_decoder().register_forward_pre_hook(change, with_kwargs=True)
    warning = settle_path(deaf, problems_of["text"], allow_plain_path=True)
    assert not deaf.packing
    assert deaf.shared_prefix
    assert "computing log-probs on the plain path" in warning
    assert settle_path(deaf, problems_of["text"], allow_plain_path=True) is None
    rollouts = written(policy, problems_of["text"])
    torch.testing.assert_close(deaf.score(rollouts).logp_NT, policy.score(rollouts).logp_NT, atol=1e-5, rtol=0)


def test_a_model_without_a_cache_takes_the_plain_path(without_a_cache, written, policy, problems_of):
    warning = settle_path(without_a_cache, problems_of["text"], allow_plain_path=True)
    assert "does not work with this model" in warning
    assert not without_a_cache.shared_prefix
    rollouts = written(policy, problems_of["text"])
    found = without_a_cache.score(rollouts).logp_NT
    torch.testing.assert_close(found, policy.score(rollouts).logp_NT, atol=1e-5, rtol=0)


def test_a_model_without_a_cache_samples_too_once_its_path_is_settled(without_a_cache, policy, problems_of):
    settle_path(without_a_cache, problems_of["text"], allow_plain_path=True)
    found = without_a_cache.sample(problems_of["text"], max_new_tokens=3)
    assert torch.equal(found.tokens_NT, policy.sample(problems_of["text"], max_new_tokens=3).tokens_NT)


def test_the_check_leaves_the_policy_as_it_was(policy, written, problems_of):
    twin = policy.clone()
    rollouts = written(twin, problems_of["text"])
    before = twin.score(rollouts).logp_NT
    largest_difference(twin, problems_of["text"])
    assert torch.equal(twin.score(rollouts).logp_NT, before)
    assert all(parameter.grad is None for parameter in twin.model.parameters())
