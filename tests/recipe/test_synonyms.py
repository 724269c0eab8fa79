"""Names of other libraries, and of other sections, lead to the field that is meant."""

import pytest

from copd.errors import RecipeError
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.recipe.synonyms import ROWS, fields_called


def test_every_name_leads_to_a_field_a_section_or_an_option_of_train(command):
    fields = {path for paths in fields_called().values() for path in paths}
    options = command("train", "--help").stdout
    for row in ROWS:
        assert row.here in {*fields, *Recipe.model_fields} or row.here in options, row.here
        assert row.here or row.note, "a name that leads nowhere says what happens instead"
        assert row.trl or row.verl or row.easyr1


def test_no_library_gives_one_name_to_two_fields():
    for library in ("TRL", "verl", "EasyR1"):
        names = [name for row in ROWS for name in row.names[library]]
        assert len(names) == len(set(names)), library


def test_the_fields_are_those_of_all_sections():
    assert fields_called()["learning_rate"] == ["opd.learning_rate", "optimizer.learning_rate"]
    assert fields_called()["max_frames"] == ["branches.NAME.task.media.max_frames"]
    assert fields_called()["weight"] == ["topology.edges[].weight", "opd.weight"]
    assert "schedule" not in fields_called()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("grpo.beta=0.1", "grpo.beta: unknown key; TRL's beta is grpo.kl_coefficient here"),
        ("optimizer.lr=1e-5", "optimizer.lr: unknown key; verl's and EasyR1's lr is optimizer.learning_rate here"),
        ("lr=1e-5", "lr: unknown key; verl's and EasyR1's lr is optimizer.learning_rate here"),
        (
            "actor_rollout_ref.rollout.n=8",
            "actor_rollout_ref: unknown key; verl's and EasyR1's rollout.n is sampling.rollouts_per_prompt here",
        ),
        (
            "data={train_batch_size: 8, shuffle: x, max_response_length: 9}",
            "data: unknown key; verl's train_batch_size is sampling.prompts_per_step here (prompts of one branch, on "
            "all its devices; TRL's batch size counts responses); "
            "verl's and EasyR1's max_response_length is sampling.max_new_tokens here",
        ),
        (
            "custom_reward_function.path=x.py",
            "custom_reward_function: unknown key; verl's custom_reward_function.path is verifiers here",
        ),
        ("reward_weights=[1]", "reward_weights: unknown key; TRL's reward_weights is branches.NAME.rewards here"),
        ("trainer.n_gpus_per_node=8", "trainer: unknown key; verl's and EasyR1's n_gpus_per_node is backend here"),
        ("data.video_fps=2", "data: unknown key; EasyR1's video_fps is branches.NAME.task.media.fps here"),
        ("output_dir=x", "output_dir: unknown key; TRL's output_dir is the option --out here"),
        ("num_train_epoch=3", "num_train_epoch: unknown key; TRL's num_train_epochs is schedule here (cycles x "),
        ("sampling.n=8", "sampling.n: unknown key; verl's n is sampling.rollouts_per_prompt here"),
        (
            "data.max_prompt_length=9",
            "data: unknown key; TRL's, verl's and EasyR1's max_prompt_length is no field here (",
        ),
        ("opd.temperature=1", "opd.temperature: unknown key; there is sampling.temperature"),
        ("grpo.epsilom=1", "grpo.epsilom: unknown key; TRL's epsilon is grpo.clip_low here"),
        ("grpo.foo=1", "grpo.foo: unknown key; accepted: clip_low, "),
        ("shedule.cycles=1", "shedule: unknown key; did you mean 'schedule'?"),
        ("schedule.cycels=1", "schedule.cycels: unknown key; did you mean 'cycles'?"),
        ("opd.beta=1", "opd.beta: is called opd.weight now"),
        ("trainer.save_freq=9", "trainer: unknown key; verl's and EasyR1's save_freq is checkpoint.every_steps here"),
        ("use_vllm=true", "use_vllm: unknown key; TRL's use_vllm is sampling.engine here"),
        ("max_grad_norm=1", "max_grad_norm: unknown key; there is optimizer.max_grad_norm"),
        (
            "lr_scheduler_type=cosine",
            "lr_scheduler_type: unknown key; TRL's, verl's and EasyR1's lr_scheduler_type is optimizer.decay here",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_field_that_is_meant(change, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo-paper", [change])
    assert said in str(caught.value)
