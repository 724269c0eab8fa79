"""The merges against an independent implementation: mergekit's own runs over the folders of a tiny Qwen3-VL."""

import pytest
import torch
from safetensors.torch import load_file

from copd.maths.merge import slerp
from copd.model.merging import MergedFolders, write_merged
from copd.model.policy import Policy
from copd.model.stored import ModelFolder
from copd.model.tiny import tiny_model

pytest.importorskip("mergekit", reason="mergekit is not installed: pip install mergekit")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(processor, tmp_path_factory):
    """A base and three branches of it, of as many layers as mergekit knows of."""
    policy = Policy(tiny_model(processor), processor)
    root = tmp_path_factory.mktemp("models")
    for k, name in enumerate(("base", "a", "b", "c")):
        twin, generator = policy.clone(), torch.Generator().manual_seed(k)
        with torch.no_grad():
            for parameter in twin.model.parameters():
                parameter.add_(0.02 * bool(k) * torch.randn(parameter.shape, generator=generator))
        twin.save(root / name, "")
    return {name: root / name for name in ("base", "a", "b", "c")}


LIKE = [
    pytest.param("mean", {}, "linear", {}, {}, [1, 1, 1], id="mean"),
    pytest.param("weighted", {"weights": (1, 2, 5)}, "linear", {}, {}, [1, 2, 5], id="weighted"),
    pytest.param("task_arithmetic", {"scale": 0.4}, "task_arithmetic", {"lambda": 0.4}, {}, [1, 1, 1], id="task"),
    pytest.param(
        "ties", {"scale": 0.9, "density": 0.2}, "ties", {"lambda": 0.9}, {"density": 0.2}, [1, 1, 1], id="ties"
    ),
    pytest.param(
        "ties",
        {"scale": 1.0, "density": 0.7, "weights": (1, 2, 5)},
        "ties",
        {"lambda": 1.0},
        {"density": 0.7},
        [1, 2, 5],
        id="ties with weights",
    ),
]


@pytest.mark.parametrize(("method", "settings", "theirs", "shared", "each", "weights"), LIKE)
def test_a_merge_equals_mergekits(folders, tmp_path, method, settings, theirs, shared, each, weights):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    models = [
        {"model": str(folders[name]), "parameters": {"weight": weight, **each}}
        for name, weight in zip("abc", weights, strict=True)
    ]
    config = {"merge_method": theirs, "models": models, "parameters": shared, "dtype": "float32"}
    if theirs != "linear":
        config["base_model"] = str(folders["base"])
    run_merge(
        MergeConfiguration.model_validate(config),
        str(tmp_path / "theirs"),
        MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False),
    )
    opened = {name: ModelFolder(folder, name) for name, folder in folders.items()}
    merged = MergedFolders([opened[name] for name in "abc"], opened["base"], method, settings)
    write_merged(merged, tmp_path / "ours", "")
    ours, expected = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "theirs"))
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("step", [0.05, 1.0])
@pytest.mark.parametrize("t", [0.25, 0.5])
def test_slerp_equals_mergekits_function_where_it_takes_the_arc(step, t):
    from mergekit.merge_methods.slerp import slerp as theirs

    generator = torch.Generator().manual_seed(0)
    first, other = (torch.randn(30, 20, generator=generator) for _ in range(2))
    second = first + step * other
    expected = theirs(torch.tensor([t]), first[None], second[None])[0]
    torch.testing.assert_close(slerp(first, second, t=t), expected, rtol=0, atol=1e-5)
