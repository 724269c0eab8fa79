"""The formula of docs/memory.md against bytes counted on tiny models, on the CPU.

    python studies/memory.py [KIND ...]    the table of the document; kinds of tests/tiny_kinds.py
    python studies/memory.py --sizes       what the formula says of common sizes

Counted is every allocation of torch while a step, a score, sampling or a merge runs, the fullest moment of each; and
the bytes of the parameters, of the moments and of a checkpoint's file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from copd.costs import memory
from copd.costs.memory import Batch, Way
from copd.costs.shape import Shape, shape_of
from copd.model.lora import LoraSettings
from copd.model.policy import Policy
from copd.model.stored import write_folder

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from counted_bytes import batch_of, most_added, most_merged, trained, written
from tiny_kinds import tiny_of_kind

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, BRANCHES = 4, 3
GIB = 2**30
Row = tuple[str, int, int]
"""A quantity, its bytes by the formula, and its bytes as counted."""


def steps(kind: str, pictures: str, *, half: bool, checkpointing: bool = False) -> Iterator[Row]:
    """What steps of one and of two parts add."""
    policy = _policy(kind, half=half, gradient_checkpointing=checkpointing)
    shape, found = shape_of(policy.model), trained(policy, pictures)
    batch = memory.step(shape, found.batch, Way(half, checkpointing=checkpointing))
    for parts, count in ((1, found.one_part), (2, found.two_parts)):
        words = f"a step of {('one part', 'two parts')[parts - 1]}{', checkpointed' * checkpointing}"
        yield words, batch + memory.gradients(shape.parameters), count


def asked(kind: str, pictures: str, *, half: bool) -> Iterator[Row]:
    """What scoring and sampling add."""
    policy = _policy(kind, half=half)
    shape, rollouts = shape_of(policy.model), written(policy, 2, 8, 40, pictures)
    batch = batch_of(policy, rollouts)
    yield "scoring", memory.scoring(shape, batch, Way(half)), most_added(lambda: policy.score(rollouts))
    cache = memory.cached(shape, batch, half=half) + memory.sampling(shape, batch, half=half)
    lean = memory.joined_weights(shape) if shape.normed else 0
    copies = memory.narrow_weights(shape, pictures=batch.patches > 0) if half else lean
    generator = torch.Generator().manual_seed(0)
    options = {"rollouts_per_prompt": 8, "generator": generator, "max_new_tokens": 40}
    yield "sampling", cache + copies, most_added(lambda: policy.sample(rollouts.problems, **options))


def held(kind: str) -> Iterator[Row]:
    """What a branch holds between steps, its checkpoint, and a merge."""
    policy = _policy(kind, half=False)
    shape, state = shape_of(policy.model), trained(policy).learner.state()
    formula = memory.weights(shape) + memory.moments(shape.parameters)
    yield "a branch between steps", formula, sum(tensor.nbytes for tensor in state.values())
    with tempfile.NamedTemporaryFile() as file:
        save_file(state, file.name)
        yield "its checkpoint on disk", memory.checkpoint(shape.parameters), Path(file.name).stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: Path(folder) / name for name in "abc"[:BRANCHES]}
        for part in parts.values():
            write_folder(policy.weights(), part)
        merged = most_merged(parts, Path(folder) / "merged")
    yield f"a merge of {BRANCHES}", memory.merging(shape, BRANCHES), merged


def adapter(kind: str) -> Iterator[Row]:
    """What a step of an adapter adds."""
    shape = shape_of(tiny_of_kind(kind)[0])
    branch = _policy(kind, half=False).with_adapter("a", LoraSettings(RANK, 8.0, TARGETS), 0)
    found, own = trained(branch), memory.adapter(shape, RANK, TARGETS)
    formula = memory.step(shape, found.batch, Way(frozen=True)) + memory.gradients(own)
    yield f"a step of two parts of an adapter of rank {RANK}", formula, found.two_parts


def _policy(kind: str, *, half: bool, **options: bool) -> Policy:
    return Policy(*tiny_of_kind(kind), autocast=torch.bfloat16 if half else None, **options)


def measured(kind: str) -> Iterator[tuple[str, Row]]:
    """The arithmetic, and a row."""
    pictures = "image" if kind == "qwen3_vl" else "text"
    for row in held(kind):
        yield "float32", row
    for name, half in (("float32", False), ("bfloat16", True)):
        for row in (
            *steps(kind, pictures, half=half),
            *steps(kind, pictures, half=half, checkpointing=True),
            *asked(kind, pictures, half=half),
        ):
            yield name, row
    for row in adapter(kind):
        yield "float32", row


SIZES = {"1.7B": (28, 2048, 16, 6144), "4B": (36, 2560, 32, 9728), "8B": (36, 4096, 32, 12_288)}
"""Layers, width, query heads and inner width of Qwen3 text models, from their published configurations."""


def shape_of_size(name: str) -> Shape:
    layers, width, heads, inner = SIZES[name]
    config = Qwen3Config(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=151_936,
        tie_word_embeddings=name != "8B",
    )
    with torch.device("meta"):
        return shape_of(Qwen3ForCausalLM(config))


def sizes() -> None:
    """GiB. A micro-batch has one prompt of 2,048 tokens and 8 responses of 2,048."""
    print(
        "| size | parameters | 3 full branches | 3 lora branches of rank 16, and the base | micro-batch, float32 |",
        end="",
    )
    print(" bfloat16 | bfloat16, checkpointed | keys and values of 1,000 tokens, bfloat16 |")
    print("|" + "---|" * 8)
    batch = Batch(1, 8, 2048, 2048)
    for name in SIZES:
        shape = shape_of_size(name)
        p, a = shape.parameters, memory.adapter(shape, 16, TARGETS)
        full = memory.weights(shape) + memory.moments(p) + memory.gradients(p)
        light = memory.WIDE * a + memory.moments(a) + memory.gradients(a)
        cells = (
            3 * full,
            memory.frozen_weights(shape) + 3 * light,
            memory.step(shape, batch, Way()),
            memory.step(shape, batch, Way(half=True, card=True)),
            memory.step(shape, batch, Way(half=True, checkpointing=True, card=True)),
            memory.cache(shape, 1000, half=True),
        )
        print(f"| {name} | {p:,} | " + " | ".join(f"{cell / GIB:.1f}" for cell in cells) + " |")


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:]
    if names == ["--sizes"]:
        return sizes()
    print("| model | arithmetic | quantity | formula, bytes | counted, bytes | counted / formula |")
    print("|---|---|---|---|---|---|")
    for name in names or ("qwen3_vl", "qwen3", "llama"):
        for arithmetic, (quantity, formula, count) in measured(name):
            cells = (name, arithmetic, quantity, f"{formula:,}", f"{count:,}", f"{count / formula:.3f}")
            print(f"| {' | '.join(cells)} |", flush=True)
    return None


if __name__ == "__main__":
    main()
