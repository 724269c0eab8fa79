"""The formula of memory against bytes that torch allocates, for tiny models: each within a tenth."""

import pytest
import torch
from counted_bytes import batch_of, most_added, most_merged, trained, written
from safetensors.torch import save_file
from tiny_kinds import _text, _tokenizer, tiny_of_kind
from transformers import Qwen3Config, Qwen3ForCausalLM

from copd.compute import decode, devices
from copd.compute.refill import Request, decode_refilled
from copd.costs import memory, refilled
from copd.costs.equal_rows import EqualRows
from copd.costs.measured import PromptSizes
from copd.costs.memory import Way
from copd.costs.shape import shape_of
from copd.errors import ModelFolderError, RecipeError
from copd.model.folders import model_folder, without_weights
from copd.model.lora import LoraSettings
from copd.model.policy import Policy
from copd.model.stored import write_folder

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TENTH = {"rel": 0.1}


def policy_of(kind: str, *, half: bool = False, **options) -> Policy:
    return Policy(*tiny_of_kind(kind), autocast=torch.bfloat16 if half else None, **options)


def with_vocabulary(tokens: int, *, half: bool = False) -> Policy:
    tokenizer = _tokenizer()
    model = Qwen3ForCausalLM(Qwen3Config(**_text(tokenizer, vocab_size=tokens))).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Policy(model, tokenizer, autocast=torch.bfloat16 if half else None)


@pytest.mark.parametrize(
    ("kind", "problem", "half", "checkpointing"),
    [
        ("qwen3", "text", False, False),
        ("qwen3", "text", True, True),
        pytest.param("qwen3_vl", "image", True, False, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "image", False, False, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "image", True, True, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "video", False, True, marks=pytest.mark.slow),
        pytest.param("llama", "text", False, False, marks=pytest.mark.slow),
        pytest.param("llama", "text", True, False, marks=pytest.mark.slow),
    ],
)
def test_a_step_adds_gradients_and_a_micro_batch(kind, problem, half, checkpointing):
    policy = policy_of(kind, half=half, gradient_checkpointing=checkpointing)
    shape = shape_of(policy.model)
    _, batch, one, two = trained(policy, problem)
    added = memory.step(shape, batch, Way(half, checkpointing=checkpointing))
    for found in (one, two):
        assert found == pytest.approx(added + memory.gradients(shape.parameters), **TENTH)
    assert two - one == pytest.approx(0, abs=30_000), "the first part's log-probs wait for the update"


def test_a_step_of_an_adapter_keeps_no_normed_values_and_its_own_gradients():
    branch = policy_of("qwen3").with_adapter("a", LoraSettings(4, 8.0, TARGETS), 0)
    shape = shape_of(policy_of("qwen3").model)
    learner, batch, _, two = trained(branch)
    own = memory.adapter(shape, 4, TARGETS)
    assert own == sum(p.numel() for p in learner.named_parameters.values())
    assert two == pytest.approx(memory.step(shape, batch, Way(frozen=True)) + memory.gradients(own), **TENTH)
    with pytest.raises(RecipeError, match=r"lora\.targets: 'qkv' is no linear layer"):
        memory.adapter(shape, 4, ["q_proj", "qkv"])


@pytest.mark.parametrize("chunk", [pytest.param(1 << 25, marks=pytest.mark.slow), 1 << 19])
def test_many_logits_are_counted_and_in_chunks_the_gradient_of_the_head_beside_them(monkeypatch, chunk):
    other = devices.OTHER._replace(logits=chunk)
    monkeypatch.setattr(devices, "OTHER", other)
    monkeypatch.setattr(memory, "OTHER", other)
    policy = with_vocabulary(8_000)
    shape, (_, batch, one, _) = shape_of(policy.model), trained(policy)
    assert one == pytest.approx(memory.step(shape, batch, Way()) + memory.gradients(shape.parameters), **TENTH)


@pytest.mark.parametrize(
    ("kind", "problem", "half", "packed"),
    [
        ("qwen3", "text", False, True),
        ("qwen3", "text", True, True),
        ("qwen3", "text", False, False),
        ("qwen3_vl", "image", False, True),
        pytest.param("qwen3_vl", "image", True, True, marks=pytest.mark.slow),
    ],
)
def test_scoring_takes_the_fullest_of_mlp_attention_and_logits(kind, problem, half, packed):
    policy = policy_of(kind, half=half)
    policy.packing = packed
    rollouts = written(policy, 2, 4, 40, problem)
    batch = batch_of(policy, rollouts)
    formula = memory.scoring(shape_of(policy.model), batch, Way(half, packed))
    assert most_added(lambda: policy.score(rollouts)) == pytest.approx(formula, **TENTH)


@pytest.mark.parametrize(
    ("kind", "half"), [("qwen3", False), ("qwen3", True), pytest.param("llama", False, marks=pytest.mark.slow)]
)
def test_sampling_takes_a_cache_with_room_for_all_rows(kind, half):
    policy = policy_of(kind, half=half)
    rollouts = written(policy, 2, 8, 40)
    shape, batch = shape_of(policy.model), batch_of(policy, rollouts)
    lean = memory.joined_weights(shape) if kind == "qwen3" else 0
    copies = memory.narrow_weights(shape, pictures=False) if half else lean
    formula = memory.cached(shape, batch, half=half) + memory.sampling(shape, batch, half=half) + copies
    found = most_added(
        lambda: policy.sample(
            rollouts.problems,
            rollouts_per_prompt=8,
            generator=torch.Generator().manual_seed(0),
            max_new_tokens=40,
        )
    )
    assert found == pytest.approx(formula, **TENTH)


@pytest.mark.parametrize(
    ("kind", "half", "cache_tokens"),
    [("qwen3", False, 5_100), ("qwen3", True, 10_000), pytest.param("qwen3_vl", False, 10_000, marks=pytest.mark.slow)],
)
def test_sampling_as_cards_do_it_takes_a_cache_of_the_budget_and_the_logits_of_all_rows_twice(
    monkeypatch, kind, half, cache_tokens
):
    for module in (decode, refilled):
        monkeypatch.setattr(module, "DRAWN_AT_ONCE", 1 << 14)
    policy = policy_of(kind, half=half) if kind == "qwen3_vl" else with_vocabulary(16_000, half=half)
    policy.banned_V[policy.end_ids] = True  # all responses reach the limit
    rollouts = written(policy, 8, 8, 40, "image" if kind == "qwen3_vl" else "text")
    policy.encoder.encode(rollouts.problems, "cpu")  # pixels are remembered
    uniform_NT = torch.rand(64, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = Request(rollouts.problems, rollouts.prompt_of_N.tolist(), uniform_NT, 40, 1.0)
    policy._cache_tokens = cache_tokens

    def sampled():
        with policy.computing():
            decode_refilled(policy, asked)

    shape, batch = shape_of(policy.model), batch_of(policy, rollouts)
    sizes = PromptSizes(batch.prompt, batch.prompt, batch.prompt, batch.patches // 8)
    call = refilled.refilled(EqualRows("text", 8, 8), sizes, 40, cache_tokens, 10_000)
    assert (call.rows, call.long_rows < call.rows) == (64, cache_tokens == 5_100)
    formula = refilled.cache(shape, call, half=half) + refilled.beside_cache(shape, call, half=half)
    formula += memory.narrow_weights(shape, pictures=False) if half else 0
    assert most_added(sampled) == pytest.approx(formula, **TENTH)


def test_a_branch_its_checkpoint_and_a_merge_take_what_the_formula_says(tmp_path):
    policy = policy_of("qwen3_vl")
    shape = shape_of(policy.model)
    learner, *_ = trained(policy)
    state = learner.state()
    assert sum(p.nbytes for p in policy.model.parameters()) == memory.weights(shape)
    held = sum(tensor.nbytes for name, tensor in state.items() if not name.startswith("weight/"))
    assert held == pytest.approx(memory.moments(shape.parameters), rel=0.01)
    save_file(state, tmp_path / "state.safetensors")
    size = (tmp_path / "state.safetensors").stat().st_size
    assert size == pytest.approx(memory.checkpoint(shape.parameters), rel=0.01)
    parts = {name: tmp_path / name for name in "abc"}
    for part in parts.values():
        write_folder(policy.weights(), part)
    formula = memory.merging(shape, 3)
    assert 0.8 * formula < most_merged(parts, tmp_path / "merged") <= formula, "the largest tensor need not be the last"


def test_a_kept_batch_is_what_a_branch_keeps():
    rows, response = 6, 20
    assert memory.kept_batch(rows, response) == rows * (response * 4 + 4 + 1 + 4 + 4 + 1)


def test_a_model_without_values_has_the_same_shape_and_its_parameters_are_counted_once():
    shape = shape_of(without_weights(model_folder("builtin:digits")))
    assert shape == shape_of(policy_of("qwen3_vl").model)
    assert (shape.parameters, shape.tied) == (1_329_792, True)
    assert not shape_of(policy_of("llama").model).tied


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next"])
def test_a_model_of_other_layers_is_refused(kind):
    with pytest.raises(ModelFolderError, match="a decoder whose layers have attention and one MLP"):
        shape_of(tiny_of_kind(kind)[0])
