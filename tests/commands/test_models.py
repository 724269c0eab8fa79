"""Model folders merged from the outside: what is written, what is refused at once, and a scan that keeps the best."""

import weakref
from pathlib import Path

import pytest
import torch
from merges import merge
from safetensors.torch import load_file
from tiny_kinds import tiny_of_kind

from copd.assemble.assembled import load_policy
from copd.assemble.tasks import make_tasks
from copd.branches.actor import Actor, SamplingSettings
from copd.branches.local import finish, local_handle
from copd.commands.merge import described_merge, merge_models
from copd.errors import MergeError, ModelFolderError, RecipeError
from copd.measure.evaluate import evaluate
from copd.model.folders import model_folder, stored_type
from copd.model.policy import Policy
from copd.recipe.merges import make_merge, merge_grid
from copd.recipe.reading import load_recipe
from copd.types import Split

DIGITS = "builtin:digits"
RECIPE = ["model.threads_per_branch=1", "evaluation.validation_problems=8"]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> str:
    """The base that ships, with noise that makes it useless."""
    policy = Policy.from_pretrained(model_folder(DIGITS))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("models") / "spoiled"
    policy.save(folder, "")
    return str(folder)


def weights(path) -> dict[str, torch.Tensor]:
    return load_file(model_folder(str(path)) / "model.safetensors")


def shares(model: str, split: Split) -> list[float]:
    """Greedy accuracy of a folder, measured apart from any scan."""
    recipe = load_recipe("demo-paper", RECIPE)
    tasks = make_tasks(recipe)
    actor = Actor("m", load_policy(recipe, model), tasks, SamplingSettings(0, recipe.sampling.max_new_tokens, 1.0))
    table = finish(evaluate([local_handle(actor)], list(tasks), split, problems=8, pass_at=()))
    return [cell.greedy.value for cell in table]


def test_a_merge_of_folders_and_builtin_models_is_written_with_a_card(spoiled, tmp_path, assert_same):
    section = make_merge({"method": "ties", "density": 0.5}, 1)
    chosen, table = merge_models([spoiled], DIGITS, [section], tmp_path / "out", None)
    assert (chosen, table) == (section, [])
    expected = merge([weights(spoiled)], method="ties", base=weights(DIGITS), density=0.5, scale=1.0)
    assert_same(weights(tmp_path / "out"), expected)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for said in (
        "ties, scale 1, density 0.5",
        f"`{Path(spoiled).name}`",
        f"Base: `{DIGITS}`",
        "tags: [merge]",
        "pipeline_tag: image-text-to-text",
        "`AutoModelForImageTextToText.from_pretrained(folder)`",
        "suppress_tokens",
    ):
        assert said in card
    assert str(tmp_path) not in card
    assert "validation" not in card


def test_a_merge_is_cast_once_to_the_type_that_is_asked_for(spoiled, tmp_path):
    with pytest.raises(RecipeError, match="--export-dtype: found 'int8'; accepted: float32, bfloat16"):
        merge_models([spoiled, DIGITS], None, [make_merge({}, 2)], tmp_path / "none", None, "int8")
    merge_models([spoiled, DIGITS], None, [make_merge({}, 2)], tmp_path / "out", None, "bfloat16")
    expected = merge([weights(spoiled), weights(DIGITS)], method="mean")
    found = weights(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in found.items())
    assert stored_type(tmp_path / "out") == "bfloat16"


def test_a_scan_keeps_the_best_on_validation_problems_and_says_so(spoiled, tmp_path, assert_same):
    candidates = merge_grid({"method": "weighted"}, 2, 2)
    chosen, table = merge_models(
        [spoiled, DIGITS], None, candidates, tmp_path / "out", load_recipe("demo-paper", RECIPE)
    )
    assert chosen.weights == (0.0, 1.0)
    assert_same(weights(tmp_path / "out"), weights(DIGITS))
    assert [cell.model for cell in table[::4]] == [f"weighted, weights {w}" for w in ("0.5 0.5", "1 0", "0 1")]
    measured = {cell.model: [c.greedy.value for c in table if c.model == cell.model] for cell in table}
    assert measured["weighted, weights 0 1"] == shares(DIGITS, Split.VALIDATION) != shares(DIGITS, Split.TEST)
    assert measured["weighted, weights 1 0"] == shares(spoiled, Split.VALIDATION)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (
        f"Chosen among 3 on validation problems, average accuracy {measured['weighted, weights 0 1'][-1]:.1%}." in card
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def renamed(request, tmp_path_factory) -> list[str]:
    """Two models whose tensors are not saved under the names of their parameters."""
    root = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate("ab"):
        policy = Policy(*tiny_of_kind(request.param, seed))
        policy.save(root / name, "")
        assert not set(policy.weights()) <= set(weights(root / name))
    return [str(root / name) for name in "ab"]


FEW = ["branches={image: {task: {kind: digits, capability: image}}}", "method=expert", "sampling.max_new_tokens=4"]


def test_a_scan_takes_models_that_save_their_tensors_under_other_names(renamed, tmp_path, assert_same):
    candidates = merge_grid({"method": "weighted"}, 2, 1)
    recipe = load_recipe("demo-paper", [*RECIPE, *FEW])
    chosen, table = merge_models(renamed, None, candidates, tmp_path / "out", recipe)
    assert len({cell.model for cell in table}) == len(candidates) == 2
    branches = [weights(folder) for folder in renamed]
    assert_same(weights(tmp_path / "out"), merge(branches, method="weighted", weights=chosen.weights))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_scan_loads_what_each_candidate_would_be_one_at_a_time(spoiled, tmp_path, monkeypatch):
    """The models that are evaluated, as they are loaded, and how many are in memory then."""
    loaded, alive = [], []

    def load(recipe, path, **_):
        alive.append(sum(model() is not None for _, model in loaded))
        policy = load_policy(recipe, path)
        loaded.append((policy.weights(), weakref.ref(policy.model.get_input_embeddings())))
        return policy

    monkeypatch.setattr("copd.assemble.assembled.load_policy", load)
    candidates = merge_grid({"method": "weighted"}, 2, 1)
    merge_models([spoiled, DIGITS], None, candidates, tmp_path / "out", load_recipe("demo-paper", [*RECIPE, *FEW]))
    branches = [weights(spoiled), weights(DIGITS)]
    for (found, _), section in zip(loaded, candidates, strict=True):
        expected = merge(branches, method="weighted", weights=section.weights)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert alive == [0, 0]


def test_a_scan_that_fails_leaves_nothing(spoiled, tmp_path, monkeypatch):
    seen = []

    def refuse(recipe, path, **_):
        seen.extend(file.name for file in tmp_path.iterdir())
        raise RecipeError("stopped")

    monkeypatch.setattr("copd.assemble.assembled.load_policy", refuse)
    candidates = merge_grid({"method": "weighted"}, 2, 1)
    with pytest.raises(RecipeError, match="stopped"):
        merge_models([spoiled, DIGITS], None, candidates, tmp_path / "out", load_recipe("demo-paper", [*RECIPE, *FEW]))
    assert seen == [".out.trial"]
    assert not list(tmp_path.iterdir())


def test_of_equally_good_candidates_the_first_is_kept(spoiled, tmp_path):
    candidates = merge_grid({"method": "task_arithmetic"}, 1, 1)
    recipe = load_recipe("demo-paper", [*RECIPE, *FEW])
    chosen, table = merge_models([spoiled], spoiled, candidates, tmp_path / "out", recipe)
    assert len({cell.greedy.value for cell in table if cell.capability == "average"}) == 1
    assert chosen.scale == 1.0


@pytest.mark.parametrize(
    ("branches", "base", "method", "error", "message"),
    [
        ([DIGITS, "nowhere"], None, "mean", ModelFolderError, "BRANCHES: no folder 'nowhere'"),
        ([DIGITS], "builtin:nothing", "ties", ModelFolderError, "--base: no builtin model 'builtin:nothing'"),
        ([DIGITS], None, "ties", MergeError, "--base: missing; method 'ties' needs the base"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_option_and_nothing_is_written(
    tmp_path, branches, base, method, error, message
):
    with pytest.raises(error, match=message) as caught:
        merge_models(branches, base, [make_merge({"method": method}, len(branches))], tmp_path / "out", None)
    assert caught.value.exit_status == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_before_a_scan(tmp_path):
    (tmp_path / "mine").write_text("keep", encoding="utf-8")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(RecipeError, match=f"--out {out}: is not empty"):
            merge_models(["nowhere"], None, [make_merge({}, 1)], out, load_recipe("demo-paper", RECIPE))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_merge_is_described_by_its_method_and_settings():
    assert described_merge(make_merge({}, 2)) == "mean"
    assert described_merge(make_merge({"method": "weighted", "weights": (1, 1 / 3)}, 2)) == "weighted, weights 1 0.333"
    assert described_merge(make_merge({"method": "dare", "seed": 7}, 2)) == "dare, scale 0.4, density 0.8, seed 7"
    assert described_merge(make_merge({"method": "ties"}, 2)) == "ties, scale 1, density 0.2"
