"""A run at whose end the branches do not merge."""

import pytest
import torch
from safetensors.torch import load_file

import copd
from copd.errors import MergeError
from copd.recipe.reading import load_recipe

TINY = [
    "backend=local",
    "model.threads_per_branch=1",
    "branches={text: {task: {capability: text}}, image: {task: {capability: image}}}",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 4}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
]


def test_a_merge_that_fails_names_the_section_and_the_tensor_after_the_branches_are_saved(tmp_path):
    recipe = load_recipe("demo-paper", [*TINY, "merge={method: weighted, weights: [1e300, 1e300]}"])
    with pytest.raises(MergeError, match=r"^merge: '[\w.]+' cannot be merged: the weights or the scale are too large"):
        copd.train(recipe, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "branches").iterdir()} == {"text", "image"}
    assert not (tmp_path / "run" / "merged").exists()


@pytest.mark.slow
def test_a_run_that_exports_in_bfloat16_trains_and_merges_in_float32_and_rounds_its_folders_once(tmp_path):
    plain, halved = (
        copd.train(load_recipe("demo-paper", [*TINY, f"model.export_dtype={name}"]), tmp_path / name).folder
        for name in ("float32", "bfloat16")
    )
    for folder in ("merged", "branches/text", "branches/image"):
        whole, found = (load_file(run / folder / "model.safetensors") for run in (plain, halved))
        assert whole.keys() == found.keys()
        assert all(torch.equal(tensor, whole[name].bfloat16()) for name, tensor in found.items()), folder
        assert "weights in bfloat16" in (halved / folder / "README.md").read_text(encoding="utf-8")
    checkpoints = [run / "checkpoints" / "step-00000001" / "text.safetensors" for run in (plain, halved)]
    assert len({path.read_bytes() for path in checkpoints}) == 1
    assert len({(run / "answers.jsonl").read_text() for run in (plain, halved)}) == 1
    assert not [path for path in halved.iterdir() if path.name.startswith(".")]
