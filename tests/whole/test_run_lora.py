"""Whole runs whose branches are adapters, recompute their layers, or take turns; what the recipe refuses of them."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import tensors_of
from merges import mean, merge
from safetensors.torch import load_file
from tiny_kinds import tiny_of_kind

import copd
from copd.assemble.assembled import Assembled, load_policy
from copd.assemble.branches import branch_policy
from copd.assemble.preflight import check_prompts
from copd.assemble.tasks import make_tasks
from copd.errors import ModelFolderError, RecipeError
from copd.model.folders import model_folder
from copd.model.policy import Policy
from copd.recipe.reading import load_recipe
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.runlog import read_lines

SMALL = [
    "backend=local",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 20}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
    "optimizer.learning_rate=0.003",
    "evaluation={problems: 3, validation_problems: 2, behaviour_problems: 1}",
    "checkpoint={every_steps: 1, keep_last: 20}",
]
LORA = [*SMALL, "lora={rank: 2, alpha: 4, targets: [q_proj, down_proj]}"]
NAMES = ("text", "image", "video")

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return copd.train(load_recipe("demo-paper", LORA), tmp_path_factory.mktemp("lora") / "run").folder


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def metrics(folder):
    clocks = ("seconds", "tokens_per_second")
    return [
        {k: v for k, v in line.items() if k not in clocks}
        for line in read_lines(folder / "metrics.jsonl")
        if line["event"] == "update"
    ]


@pytest.mark.slow
def test_the_merged_model_is_the_mean_of_the_full_weights_exported_per_branch(finished, assert_same):
    exported = [weights_of(finished / "branches" / name) for name in NAMES]
    assert_same(weights_of(finished / "merged"), mean(exported))
    changed = [name for name in exported[0] if not torch.equal(exported[0][name], exported[1][name])]
    assert changed
    assert all("q_proj" in name or "down_proj" in name for name in changed)


@pytest.mark.slow
def test_each_branch_leaves_its_adapter_beside_its_full_weights(finished):
    for name in NAMES:
        adapter = load_file(finished / "branches" / name / "adapter" / "adapter_model.safetensors")
        assert len(adapter) == 2 * 2 * 4
        assert all(tensor.shape[0] == 2 or tensor.shape[1] == 2 for tensor in adapter.values())


@pytest.mark.slow
def test_checkpoints_hold_adapters_alone_and_a_run_goes_on_bit_identically(finished, tmp_path, assert_same, stopped):
    whole = latest_checkpoint(finished / "checkpoints")
    assert all(".lora_" in name for name in tensors_of(whole, "text") if name not in ("skipped_in_a_row", "version"))
    again = tmp_path / "run"
    copd.train(load_recipe("demo-paper", LORA), again)
    for path in again.iterdir():
        if path.name in ("merged", "branches", "report.html"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    stopped(again)
    shutil.rmtree(again / "checkpoints" / "step-00000002")
    copd.train(load_recipe("demo-paper", LORA), again, resume=True)
    assert_same(tensors_of(latest_checkpoint(again / "checkpoints"), "image"), tensors_of(whole, "image"))
    assert metrics(again) == metrics(finished)
    assert_same(weights_of(again / "merged"), weights_of(finished / "merged"))


@pytest.mark.slow
def test_branches_that_take_turns_train_to_the_same_weights(tmp_path, assert_same):
    folders = [
        copd.train(load_recipe("demo-paper", [*SMALL, f"model.offload={on}"]), tmp_path / on).folder
        for on in ("false", "true")
    ]
    assert_same(*(weights_of(folder / "merged") for folder in folders))


@pytest.mark.slow
def test_adapters_are_merged_from_the_base_by_every_method_that_adds_to_it(finished, tmp_path, assert_same):
    changes = [*LORA, "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}", "checkpoint.every_steps=5"]
    folder = copd.train(
        load_recipe("demo-paper", [*changes, "merge={method: task_arithmetic, scale: 0.5}"]), tmp_path / "run"
    ).folder
    base = weights_of(model_folder("builtin:digits"))
    exported = [weights_of(folder / "branches" / name) for name in NAMES]
    expected = merge(exported, method="task_arithmetic", base=base, scale=0.5)
    assert_same(weights_of(folder / "merged"), expected, atol=1e-6)


def test_full_weights_are_not_loaded_into_the_base_that_adapters_share():
    recipe = load_recipe("demo-paper", ["lora.rank=2"])
    base = load_policy(recipe)
    branch = branch_policy(recipe, base, "text")
    before = branch.weights()
    with pytest.raises(ValueError, match="a model with adapters"):
        branch.load_weights({name: weight + 1 for name, weight in before.items()})
    assert all(torch.equal(weight, before[name]) for name, weight in branch.weights().items())


def test_a_model_with_checkpointing_packs_and_samples_on_the_cache_as_without():
    recipe = load_recipe("demo-paper", ["model.gradient_checkpointing=true"])
    warnings = []
    policy = Assembled(recipe, warnings.append).base
    assert warnings == []
    assert (policy.shared_prefix, policy.packs) == (True, True)
    assert branch_policy(recipe, policy, "text").gradient_checkpointing


def test_a_branch_lives_where_the_recipe_puts_it():
    recipe = load_recipe("demo-paper", ["branches.text.device=cpu", "branches.image.device=cuda:7"])
    base = load_policy(recipe)
    assert branch_policy(recipe, base, "text").device == torch.device("cpu")
    with pytest.raises(ModelFolderError, match=r"^branches\.image\.device: 'cuda:7' is not available here; there is "):
        branch_policy(recipe, base, "image")


def test_adapters_share_the_base_and_start_from_seeds_of_their_own():
    recipe = load_recipe("demo-paper", ["lora.rank=2"])
    base = load_policy(recipe)
    first, second = (branch_policy(recipe, base, name) for name in ("text", "image"))
    assert first.model is second.model is base.model
    a, b = (next(p for n, p in branch.trained_parameters().items() if ".lora_A." in n) for branch in (first, second))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora={}", "model.offload=true"], r"^model\.offload: lora branches share one base"),
        (["lora={}", "branches.text.device=cpu"], r"^branches\.text\.device: lora branches share one base"),
        (["model.offload=true", "grpo.kl_coefficient=0.1"], r"^model\.offload: .* grpo\.kl_coefficient"),
        (
            ["lora={}", "method=mopd", "mopd.student=mean"],
            r"^mopd\.student: is 'mean', but an adapter begins as the base",
        ),
        (
            ["lora={}", "method=mopd", "mopd.student=text"],
            r"^mopd\.student: is 'text', but an adapter begins as the base",
        ),
        (["lora.rank=0"], r"^lora\.rank: .*1 or more"),
        (["lora.rnk=2"], r"^lora\.rnk: unknown key; did you mean 'rank'\?"),
        (["lora.targets=[]"], r"^lora\.targets: "),
        (["lora.rank=true"], r"^lora\.rank: holds yes, no"),
        (["model.offload=1"], r"^model\.offload: .*true or false"),
        (["model.gradient_checkpointing='true'"], r"^model\.gradient_checkpointing: .*true or false"),
        (["model.revision=-main"], r"^model\.revision: .*found '-main'"),
        (["branches.text.device=gpu"], r"^branches\.text\.device: .*found 'gpu'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo-paper", ["backend=local", *overrides])


def test_pictures_for_a_text_only_model_are_refused_before_anything_is_trained():
    recipe = load_recipe("demo-paper")
    policy = Policy(*tiny_of_kind("qwen3"))
    with pytest.raises(RecipeError, match=r"^branches\.image\.task: its problems hold image; .* takes text only"):
        check_prompts(policy, make_tasks(recipe), 8)
