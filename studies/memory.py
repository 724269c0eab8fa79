"""The formula of docs/memory.md against bytes counted on tiny models, on the CPU.

    python studies/memory.py [KIND ...]    the table of the document; kinds of tests/tiny_kinds.py
    python studies/memory.py --sizes       what the formula says of common sizes

Counted are storages of tensors, each once: those alive at the fullest moment of a real optimizer step and between
steps, those that a forward pass keeps for its backward pass (hooks on saved tensors), the cache of keys and values.
Nothing in the formula is fitted: its coefficients count the tensors that a layer keeps per token.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache

from copd.compute.forward import prompt_arguments
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import GrpoObjective
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_kinds import tiny_of_kind

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPTS, ROWS, LENGTH, RANK, BRANCHES = 2, 8, 100, 4, 3


@dataclass(frozen=True)
class Shape:
    """A decoder: layers, width D, query width Q, key or value width K, inner width F, head size, vocabulary V.

    `normed` where queries and keys are normed (Qwen3, Qwen3-VL); `parameters` counts the whole model.
    """

    layers: int
    width: int
    query: int
    key: int
    inner: int
    head: int
    vocabulary: int
    normed: bool
    parameters: int


def shape_of(policy: Policy) -> Shape:
    config = policy.model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads * head,
        config.num_key_value_heads * head,
        config.intermediate_size,
        head,
        config.vocab_size,
        any(name.endswith("q_norm") for name, _ in policy.model.named_modules()),
        sum(p.numel() for p in policy.model.parameters()),
    )


def between_steps(trained: int) -> int:
    """Numbers that a branch holds for good per trained parameter: itself and two moments."""
    return 3 * trained


def within_a_step(trained: int) -> int:
    """Numbers added while a branch steps: the sum of the gradients, and the gradient of a second part."""
    return 2 * trained


def adapter(shape: Shape, rank: int) -> int:
    """Parameters of one adapter on all linear layers of the decoder: rank (in + out) each."""
    d, q, k, f = shape.width, shape.query, shape.key, shape.inner
    return shape.layers * rank * (2 * (d + q) + 2 * (d + k) + 3 * (d + f))


def cache(shape: Shape, tokens: int) -> int:
    """Keys and values of every layer."""
    return 2 * shape.layers * shape.key * tokens


def activations(shape: Shape, tokens: int, responses: int) -> int:
    """Numbers kept for the backward pass, of `tokens` in the batch, `responses` of them with a log-prob.

    A layer keeps, per token: residual, normed and scaled residual before attention and before the MLP, 6 D; queries and
    attention's output, keys and values, 2 (Q + K), twice that where queries and keys are normed; gate, its activation,
    up, and their product, 4 F. After the layers: 2 D and cosine and sine; per response token D and V log-probs.
    """
    attention = (4 if shape.normed else 2) * (shape.query + shape.key)
    per_layer = 6 * shape.width + attention + 4 * shape.inner
    per_token = shape.layers * per_layer + 2 * shape.width + 2 * shape.head
    return tokens * per_token + responses * (shape.width + shape.vocabulary)


def packed(shape: Shape, prompts: int, rows: int, prompt: int, response: int) -> int:
    """Activations of packed log-probs: prompts and rows' tokens once, the last of a row not at all.

    A layer keeps attention's output twice, by window and in the sequence's order, and each row's keys and values once
    more, behind copies of its prompt's. Masks are numbers, the same for all layers, repeated for the query heads that
    share a key head.
    """
    tokens, length = prompts * prompt + rows * (response - 1), prompt + response - 1
    per_layer = shape.query * tokens + 2 * shape.key * rows * length
    masks = shape.query // shape.key * (prompts * prompt**2 + rows * (response - 1) * length)
    return activations(shape, tokens, rows * response) + shape.layers * per_layer + masks


def checkpointed(shape: Shape, tokens: int, responses: int) -> int:
    """Activations with gradient checkpointing: the input of each layer, and what stands outside the layers."""
    outside = activations(replace(shape, layers=0), tokens, responses)
    return shape.layers * shape.width * tokens + outside


def counted(tensors: Iterable[Tensor]) -> int:
    """Numbers of 4 bytes in the storages under the tensors, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()) // 4


def alive() -> int:
    """The same for every tensor of this process."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    gradients = [item.grad for item in tensors if item.is_leaf and item.grad is not None]
    return counted([*tensors, *gradients])


def kept(policy: Policy, rollouts: Rollouts) -> int:
    """Numbers that the forward pass of the log-probs keeps for the backward pass, parameters left out."""
    saved: list[Tensor] = []
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        logp = policy.logp(rollouts)
    assert logp.requires_grad
    return counted(t for t in saved if t.untyped_storage().data_ptr() not in own)


def written(policy: Policy) -> Rollouts:
    """Random responses of one length to prompts of one length."""
    problem = Digits("text").problem(Split.TRAIN, 0)
    rows = PROMPTS * ROWS
    allowed = (~policy.banned_V).nonzero()[:, 0]
    return Rollouts(
        problems=tuple(replace(problem, id=str(i)) for i in range(PROMPTS)),
        tokens_NT=allowed[torch.randint(len(allowed), (rows, LENGTH))],
        mask_NT=torch.ones(rows, LENGTH, dtype=torch.bool),
        finished_N=torch.zeros(rows, dtype=torch.bool),
        logp_NT=torch.zeros(rows, LENGTH),
        prompt_of_N=torch.arange(PROMPTS).repeat_interleave(ROWS),
        temperature=1.0,
    )


def stepped(policies: list[Policy]) -> tuple[int, int]:
    """Numbers alive between the steps of these branches, and at the fullest moment of a step of two parts."""
    rollouts = written(policies[0])
    objective = GrpoObjective("grpo", rollouts, 1.0, torch.linspace(-1, 1, len(rollouts.tokens_NT)))
    learners = [Learner(policy, learning_rate=1e-4) for policy in policies]
    fullest = []
    for learner in learners:
        learner.step([objective])
    take = learners[0]._take_gradients
    learners[0]._take_gradients = lambda: fullest.append(alive()) or take()  # type: ignore[method-assign, func-returns-value]
    between = alive()
    learners[0].step([objective, replace(objective, name="again")])
    return between, max(fullest)


def measured(name: str) -> list[tuple[str, int, int]]:
    """Quantity, formula, count."""
    torch.manual_seed(0)
    before = alive()
    policy = Policy(*tiny_of_kind(name))
    shape = shape_of(policy)
    between, fullest = stepped([policy])
    rows = [
        ("one full branch between steps", between_steps(shape.parameters), between - before),
        ("what a step of two parts adds", within_a_step(shape.parameters), fullest - between),
    ]
    rollouts = written(policy)
    prompt = policy.encoder.lengths(rollouts.problems)[0]
    n, tokens = PROMPTS * ROWS, PROMPTS * ROWS * (prompt + LENGTH)
    rows.append(("activations, packed", packed(shape, PROMPTS, n, prompt, LENGTH), kept(policy, rollouts)))
    policy.packing = False
    rows.append(("activations, plain path", activations(shape, tokens, n * LENGTH), kept(policy, rollouts)))
    twin = policy.clone(gradient_checkpointing=True)
    rows.append(("activations, checkpointed", checkpointed(shape, tokens, n * LENGTH), kept(twin, rollouts)))
    prompts = policy.encoder.encode(rollouts.problems, policy.device)
    past = DynamicCache()
    policy.model(**prompt_arguments(policy.encoder.family, prompts), past_key_values=past, use_cache=True)
    keys = [tensor for layer in past.layers for tensor in (layer.keys, layer.values)]
    rows.append(("keys and values of the prompts", cache(shape, PROMPTS * prompt), counted(keys)))
    del policy, twin, past, keys, prompts
    before = alive()
    base = Policy(*tiny_of_kind(name))
    branches = [base.with_adapter(f"b{i}", LoraSettings(RANK, 8.0, TARGETS), i) for i in range(BRANCHES)]
    between, fullest = stepped(branches)
    trained = adapter(shape, RANK)
    formula = shape.parameters + BRANCHES * between_steps(trained)
    rows.append((f"{BRANCHES} lora branches of rank {RANK} between steps", formula, between - before))
    rows.append(("what a step of two parts of one adds", within_a_step(trained), fullest - between))
    return rows


SIZES = {
    "1.7B": Shape(28, 2048, 2048, 1024, 6144, 128, 151_936, True, 1_720_000_000),
    "4B": Shape(36, 2560, 4096, 1024, 9728, 128, 151_936, True, 4_020_000_000),
    "8B": Shape(36, 4096, 4096, 1024, 12288, 128, 151_936, True, 8_190_000_000),
}
"""Qwen3 text models, from their published configurations."""


def sizes() -> None:
    """GiB in float32, K=3; activations of 16,384 tokens on the plain path, a response token for every second one."""
    print("| size | 3 full branches and the base | in turns: on the device | in turns: on the CPU |", end="")
    print(" 3 lora branches of rank 16 | activations | checkpointed | keys and values of 1,000 tokens |")
    print("|" + "---|" * 8)
    for name, shape in SIZES.items():
        p, a = shape.parameters, adapter(shape, 16)
        cells = (
            p + 3 * between_steps(p) + within_a_step(p),
            between_steps(p) + within_a_step(p),
            p + 2 * between_steps(p),
            p + 3 * between_steps(a) + within_a_step(a),
            activations(shape, 16_384, 8_192),
            checkpointed(shape, 16_384, 8_192),
            cache(shape, 1000),
        )
        print(f"| {name} | " + " | ".join(f"{4 * cell / 2**30:.1f}" for cell in cells) + " |")


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:]
    if names == ["--sizes"]:
        return sizes()
    print("| model | quantity | formula, bytes | counted, bytes | counted / formula |")
    print("|---|---|---|---|---|")
    for name in names or ("qwen3_vl", "qwen3", "llama"):
        for quantity, formula, count in measured(name):
            print(f"| {name} | {quantity} | {4 * formula:,} | {4 * count:,} | {count / formula:.3f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
