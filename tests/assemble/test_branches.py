"""Where a branch computes, and how many models its process holds."""

import gc

import pytest
import torch

from copd.assemble.assembled import assembled
from copd.assemble.branches import home_of, lone_branch, make_branch
from copd.errors import ModelFolderError
from copd.recipe.reading import load_recipe


@pytest.fixture
def models_held(small_base):
    """The whole models that a branch brings with it."""

    def count(*changes: str) -> int:
        gc.freeze()  # what is there already is not looked at
        try:
            recipe = load_recipe("demo-paper", [f"model.path={small_base}", "model.threads_per_branch=1", *changes])
            with lone_branch(recipe, "text", 0, None, print) as branch:
                assert branch.version == 0
                gc.collect()
                return sum(type(each).__name__ == "Qwen3VLForConditionalGeneration" for each in gc.get_objects())
        finally:
            gc.unfreeze()

    return count


def test_the_process_of_a_branch_holds_its_model_once(models_held):
    assert models_held() == 1


def test_a_reference_is_held_beside_it_and_an_adapter_on_it(models_held):
    assert models_held("grpo.kl_coefficient=0.1") == 2
    assert models_held("lora={rank: 2, alpha: 4, targets: [q_proj]}") == 1


def test_a_branch_that_computes_in_another_type_than_the_base_is_checked_for_itself(monkeypatch):
    """Here the type of the arithmetic changes; on a machine with cards the device may."""
    checked = []

    def settle(policy, tasks, *, allow_plain_path):
        checked.append(policy.autocast)
        return []

    monkeypatch.setattr("copd.assemble.assembled.settle_paths", settle)
    with assembled(load_recipe("demo-paper", ["model.threads_per_branch=1"]), print) as made:
        make_branch(made, "text", 0)
        assert checked == [None], "the base alone"
        monkeypatch.setattr("copd.assemble.branches.home_of", lambda *_: (torch.device("cpu"), torch.bfloat16))
        branch = make_branch(made, "image", 1)
    assert checked == [None, torch.bfloat16]
    assert branch.settled_path().checked_on.endswith("in bfloat16")


@pytest.fixture
def cards(monkeypatch):
    """A machine with two cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_branches_share_out_the_cards_of_a_machine(cards):
    homes = [
        home_of(load_recipe("demo-paper", ["model.device=auto"]), name, i) for i, name in enumerate(("a", "b", "c"))
    ]
    assert [device for device, _ in homes] == [torch.device("cuda", i) for i in (0, 1, 0)]
    assert {autocast for _, autocast in homes} == {None}, "the demo computes in float32"


def test_branches_that_take_turns_share_one_card(cards):
    recipe = load_recipe("demo-paper", ["model.device=cuda", "model.offload=true", "backend=local"])
    assert [home_of(recipe, "image", i)[0] for i in (0, 1)] == [torch.device("cuda", 0)] * 2


def test_a_device_of_its_own_comes_first_and_one_that_is_not_there_is_refused(cards):
    recipe = load_recipe("demo-paper", ["branches.image.device=cuda:1", "branches.text.device=cpu"])
    assert home_of(recipe, "image", 0)[0] == torch.device("cuda", 1)
    shared = load_recipe("demo-paper", ["branches.image.device=cuda"])
    assert home_of(shared, "image", 1)[0] == torch.device("cuda", 1), "no card is named"
    assert home_of(recipe, "text", 1)[0] == torch.device("cpu")
    with pytest.raises(ModelFolderError, match=r"branches\.text\.device: 'cuda:2' is not available here"):
        home_of(load_recipe("demo-paper", ["branches.text.device=cuda:2"]), "text", 0)
