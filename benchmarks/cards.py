"""What is measured on a card, each in numbers that JSON holds. The CPU of a dry run takes the same way."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.responses import written
from copd.compute.batching import take_rows
from copd.compute.devices import computing_on
from copd.compute.layout import laid_out
from copd.costs.memory import Batch, Way, gradients, moments_on_the_card, step, weights
from copd.costs.shape import shape_of
from copd.maths.divergences import reverse_kl
from copd.model.learner import Learner
from copd.model.objectives import DenseObjective, GrpoObjective, Objective
from copd.model.policy import Policy
from copd.types import Problem, Rollouts

KINDS = ("text", "image", "video")
TOKEN_SIDE = 32
"""Pixels on a side of what becomes one token of a picture: patches of 16, of which two by two are merged."""
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}
"""Products a second in bfloat16 without sparsity, by what stands in a card's name; from their data sheets."""
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How long prompts and responses are, in tokens, and how many rows a prompt has.

    `contexts` are the lengths of prompt and response whose memory is measured. In `speed` a prompt is as long as all of
    its responses together.
    """

    rows: int
    sampled: int
    contexts: tuple[tuple[int, int], ...]
    speed: tuple[int, int]
    learning_rate: float = 1e-5


ON_A_CARD = Sizes(8, 256, ((2048, 4096), (2048, 16_384)), (4096, 512))
DRY = Sizes(2, 4, ((24, 16), (24, 32)), (24, 12))


def problems(kind: str, tokens: int, count: int, side: int = TOKEN_SIDE) -> list[Problem]:
    """Problems of one kind whose prompts have about `tokens` tokens; their answers mean nothing."""
    draw = np.random.default_rng(0)
    across = max(2, round(tokens**0.5))
    picture = (across * side, across * side, 3)
    made = []
    for index in range(count):
        media: Numbers = {}
        if kind == "image":
            media = {"images": (draw.integers(0, 255, picture, dtype=np.uint8),)}
        elif kind == "video":
            half = (max(2, across // 2) * side, across * side, 3)
            media = {"videos": (draw.integers(0, 255, (4, *half), dtype=np.uint8),)}
        prompt = "read this with care " * (tokens // 20 + 1)
        made.append(Problem(f"{kind}/{index}", kind, prompt[:tokens] if kind == "text" else "?", "1", "exact", **media))
    return made


def seconds(work: Callable[[], object]) -> float:
    """Seconds that `work` takes until the card has done it too."""
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def precision(policy: Policy, side: int) -> Numbers:
    """By kind and path, the greatest and the mean difference of a log-prob from that of its row alone in float32.

    `sampled` is the path with a cache: the log-probs that sampling notes.
    """
    whole = Policy(policy.model, policy.processor, device=policy.device, encoder=policy.encoder)
    whole.shared_prefix = False

    def off(rollouts: Rollouts, logp_NT: Tensor) -> dict[str, float]:
        alone = [take_rows(rollouts, torch.tensor([n])) for n in range(len(rollouts.tokens_NT))]
        expected_M = torch.cat([whole.score(row).logp_NT[row.mask_NT] for row in alone])
        error_M = (logp_NT[rollouts.mask_NT] - expected_M).abs()
        return {"max": float(error_M.max()), "mean": float(error_M.mean())}

    found: Numbers = {}
    for kind in KINDS:
        asked = problems(kind, 64, 2, side)
        rollouts = written(policy, asked, 4, 32)
        for path, packing in (("packed", True), ("plain", False)):
            policy.packing = packing
            found[f"{kind}, {path}"] = off(rollouts, policy.score(rollouts).logp_NT)
        policy.packing = True
        drawn = torch.Generator().manual_seed(0)
        sampled = policy.sample(asked, rollouts_per_prompt=4, generator=drawn, max_new_tokens=32)
        found[f"{kind}, sampled"] = off(sampled, sampled.logp_NT)
    return found


def attention_gradient(device: torch.device) -> Numbers:
    """The greatest error of packed attention and of its gradients against a dense mask by its definition, in float32.

    As a share of the greatest value.
    """
    layout = laid_out(torch.tensor([300, 200]), torch.tensor([100, 250, 1, 130]), torch.tensor([0, 0, 1, 1]))
    mask = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    for first, size in zip(layout.first_P.tolist(), layout.length_P.tolist(), strict=True):
        mask[first : first + size, first : first + size] = True
    for n, p in enumerate(layout.prompt_of_N.tolist()):
        own = slice(int(layout.first_N[n]), int(layout.first_N[n] + layout.length_N[n]))
        before = slice(int(layout.first_P[p]), int(layout.first_P[p] + layout.length_P[p]))
        mask[own, before], mask[own, own] = True, True
    mask = mask.tril().to(device)
    draw = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, heads, layout.tokens, 64, generator=draw).to(device).requires_grad_() for heads in (8, 2, 2)
    ]
    weight = torch.randn(1, layout.tokens, 8, 64, generator=draw).to(device)
    seen = computing_on(device).attention(layout, device)
    query, key, value = inputs
    dense = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.125, enable_gqa=True)
    results = [seen.attend(query, key, value, 0.125), dense.transpose(1, 2)]
    each = [[result, *torch.autograd.grad((result * weight).sum(), inputs)] for result in results]
    names = ("result", "query", "key", "value")
    pairs = zip(names, *each, strict=True)
    return {name: float(((a - b).abs().max() / b.abs().max()).detach()) for name, a, b in pairs}


def host_waits(policy: Policy, sizes: Sizes) -> Numbers:
    """How often the host waits for the card while it samples, for each token of a response."""
    asked = problems("text", 64, 4)
    sample(policy, asked, sizes)
    if policy.device.type != "cuda":
        return {"waits a token": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sample(policy, asked, sizes)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchronizing CUDA operation" in str(each.message) for each in caught)
    return {"waits a token": waits / sizes.sampled}


def sample(policy: Policy, asked: Sequence[Problem], sizes: Sizes) -> Rollouts:
    """Responses of `sizes.sampled` tokens each: no token ends them."""
    ends, policy.end_ids = policy.end_ids, policy.end_ids[:0]
    try:
        return policy.sample(
            asked,
            rollouts_per_prompt=sizes.rows,
            generator=torch.Generator().manual_seed(0),
            max_new_tokens=sizes.sampled,
        )
    finally:
        policy.end_ids = ends


def objectives(policy: Policy, rollouts: Rollouts) -> Mapping[str, list[Objective]]:
    """The parts of a step of RLVR, and of one of OPD, where the policy itself is the teacher."""
    advantage_N = torch.linspace(-1, 1, len(rollouts.tokens_NT))
    native = GrpoObjective("native", rollouts, 1.0, advantage_N)
    score = policy.score(rollouts, k=min(64, policy.allowed_tokens))
    return {"GRPO": [native], "OPD": [native, DenseObjective("opd", rollouts, 1.0, score, reverse_kl)]}


def peaks(policy: Policy, sizes: Sizes, kind: str) -> Iterator[tuple[str, Numbers]]:
    """The peak of a step of one prompt and one row, and the formula's, in bytes; after a step that made the moments."""
    shape = shape_of(policy.model)
    for prompt, response in sizes.contexts:
        rollouts = written(policy, problems("text", prompt, 1), 1, response)
        for name, parts in objectives(policy, rollouts).items():
            learner = Learner(policy, learning_rate=sizes.learning_rate, kind=kind)
            learner.step(parts)
            with measuring(policy.device) as peak:
                learner.step(parts)
            length = policy.encoder.lengths(rollouts.problems)[0]
            on_card = policy.device.type == "cuda"
            way = Way(policy.autocast is not None, policy.packs, policy.gradient_checkpointing, card=on_card)
            held = weights(shape) + moments_on_the_card(shape.parameters, kind) + gradients(shape.parameters)
            formula = held + step(shape, Batch(1, 1, length, response), way)
            yield f"{name}, {prompt} + {response}", {"bytes": peak.bytes, "formula": formula}
            del learner


@dataclass
class Peak:
    """The most bytes that tensors took on the card; None where there is none."""

    bytes: int | None = None


@contextmanager
def measuring(device: torch.device) -> Iterator[Peak]:
    """The peak within the block."""
    peak = Peak()
    if device.type != "cuda":
        yield peak
        return
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    torch.cuda.synchronize()
    peak.bytes = torch.cuda.max_memory_allocated()


def speeds(policy: Policy, sizes: Sizes, kind: str) -> Numbers:
    """Tokens a second of sampling, scoring and training, transformers' sampling, and the plain path's training.

    Sampling counts the tokens of responses; scoring and training count the prompt too, once. Training is the forward
    and backward pass: the optimizer's time does not grow with the tokens. It stands by itself, in seconds.
    """
    prompt, response = sizes.speed
    asked = problems("text", prompt, 1)
    rollouts = written(policy, asked, sizes.rows, response)
    learner = Learner(policy, learning_rate=sizes.learning_rate, kind=kind)
    (part,) = objectives(policy, rollouts)["GRPO"]
    length = policy.encoder.lengths(asked)[0]
    tokens, sampled = length + sizes.rows * response, sizes.rows * sizes.sampled

    def generate() -> Tensor:
        encoded = policy.encoder.encode(asked, policy.device)
        with policy.computing(), torch.no_grad():
            length = {"max_new_tokens": sizes.sampled, "min_new_tokens": sizes.sampled}
            rows = {"input_ids": encoded.ids_PS, "attention_mask": encoded.mask_PS.long()}
            return policy.model.generate(**rows, **length, do_sample=True, num_return_sequences=sizes.rows)

    found: Numbers = {
        "sampling": sampled / warm(lambda: sample(policy, asked, sizes)),
        "sampling, transformers generate": sampled / warm(generate),
        "scoring": tokens / warm(lambda: policy.score(rollouts)),
        "training": tokens / warm(lambda: learner.gradient(part)),
    }
    policy.packing = False
    found["training, plain path"] = tokens / warm(lambda: learner.gradient(part))
    policy.packing = True
    found["optimizer, seconds"] = max(0.0, warm(lambda: learner.step([part])) - tokens / found["training"])
    scored = products(policy, length, sizes.rows, response)
    of_peak = {
        "share of peak": 3 * scored * found["training"] / tokens,
        "share of peak, scoring": scored * found["scoring"] / tokens,
        "share of peak, sampling": products(policy, length, sizes.rows, sizes.sampled) * found["sampling"] / sampled,
    }
    peak = peak_of(policy)
    return found | {name: peak and speed / peak for name, speed in of_peak.items()}


def warm(work: Callable[[], object]) -> float:
    """Seconds of the second run: the first compiles, and finds its memory."""
    work()
    return seconds(work)


def peak_of(policy: Policy) -> float | None:
    """Products a second that the card could make in bfloat16; None: unknown card."""
    name = torch.cuda.get_device_name() if policy.device.type == "cuda" else ""
    return next((value for card, value in PEAK.items() if card in name), None)


def products(policy: Policy, prompt: int, rows: int, response: int) -> float:
    """Products of a packed forward pass: of scoring, and of sampling with a cache. With the backward pass three times.

    2 for each weight of the decoder and token, 4 for each pair that attention sees, layer and width. The head counts
    for response tokens alone.
    """
    config = policy.model.config.get_text_config()
    head = config.vocab_size * config.hidden_size
    decoder = sum(p.numel() for p in policy.model.get_decoder().parameters()) - head
    pairs = prompt**2 / 2 + rows * response * (prompt + response / 2)
    attended = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    return 2 * decoder * (prompt + rows * response) + 2 * head * rows * response + attended


def resumed(policy: Policy, sizes: Sizes) -> Numbers:
    """Whether a learner that goes on from a saved state makes the same bits as the one that saved it."""
    rollouts = written(policy, problems("text", 64, 2), 4, 16)
    learners = [Learner(policy.clone(), learning_rate=sizes.learning_rate) for _ in range(2)]
    parts = objectives(policy, rollouts)["OPD"]
    learners[0].step(parts)
    learners[1].load_state(learners[0].state())
    for learner in learners:
        learner.step(parts)
    first, second = (learner.state() for learner in learners)
    return {"same bits": all(torch.equal(first[name], second[name]) for name in first)}


def exchanged(policy: Policy) -> Numbers:
    """Seconds in which a model leaves the card and comes back, and its bytes a second on both ways."""
    home = policy.device
    size = sum(p.nbytes for p in policy.model.parameters())
    out, back = seconds(lambda: policy.to("cpu")), seconds(lambda: policy.to(home))
    return {"out": out, "back": back, "bytes a second": 2 * size / (out + back)}
