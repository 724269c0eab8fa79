"""A run at whose end the branches do not merge."""

import pytest

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
    recipe = load_recipe("demo", [*TINY, "merge={method: weighted, weights: [1e300, 1e300]}"])
    with pytest.raises(MergeError, match=r"^merge: '[\w.]+' cannot be merged: the weights or the scale are too large"):
        copd.train(recipe, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "branches").iterdir()} == {"text", "image"}
    assert not (tmp_path / "run" / "merged").exists()
