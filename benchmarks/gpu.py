"""What a card does with a Qwen3-VL of half a billion and of four billion random weights: at most 8 minutes, no network.

    python -m benchmarks.gpu              on a card of 80 GB or more: benchmarks/results/gpu.json and docs/gpu.md
    python -m benchmarks.gpu --dry-run    the same code with the tiny model on the CPU; prints the page, writes nothing
    python -m benchmarks.gpu --page       writes docs/gpu.md from benchmarks/results/gpu.json

Needs torch, transformers and what these need. Nothing else has to be installed, copd neither.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = {
    "torch": (2, 10),
    "torchvision": (0, 25),
    "transformers": (5, 17),
    "safetensors": (0, 6),
    "tokenizers": (0, 20),
    "huggingface_hub": (1, 0),
    "numpy": (2, 0),
    "pillow": (11, 0),
}
"""Packages, and the lowest version of each."""
ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu.json", ROOT / "docs" / "gpu.md"
SECONDS = 420
"""After so long nothing further is begun: what is left out says so."""
PATCH = 16
SMALL = {
    "text": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 20,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "vision": {
        "depth": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_heads": 12,
        "out_hidden_size": 1024,
        "deepstack_visual_indexes": [3, 6, 9],
    },
}
LARGE = {
    "text": {
        "vocab_size": 151_936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "vision": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
"""The dimensions of Qwen3-VL-4B-Instruct."""
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
GOALS = {"share of peak": 0.4, "packed over plain": 3.0, "memory": 0.1}
ROOM = 100e9
"""Bytes of a card. From so many on it holds the moments of 4 billion weights; else they are on the CPU."""


def lacking() -> list[str]:
    """What has to be installed first."""
    missing = []
    for package, lowest in NEEDED.items():
        needs = f"{package}>={'.'.join(map(str, lowest))}"
        try:
            found = version(package)
        except PackageNotFoundError:
            missing.append(needs)
            continue
        if tuple(int(part) for part in found.split(".")[:2]) < lowest:
            missing.append(f"{needs} (found {found})")
    return missing


def lacking_for_kernels() -> list[str]:
    """What torch has to find before it can compile a kernel for a card."""
    missing = [] if find_spec("triton") else ["triton, in the version of torch"]
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        missing.append("a C compiler, such as gcc")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return missing if header.is_file() else [*missing, f"{header}, which the system's python3-dev brings"]


def policy_of(size: dict[str, Any] | None, device: Any, **options: Any) -> Any:
    """A policy with random weights, of the tiny model where no size is given."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from copd.model.policy import Policy
    from copd.model.tiny import tiny_config, tiny_model, tiny_processor

    if size is None:
        processor = tiny_processor()
        return Policy(tiny_model(processor), processor, device=device, **options)
    processor = tiny_processor(PATCH, 4096 * 4096)
    config = tiny_config(processor).to_dict()
    config["text_config"] |= {**size["text"], "max_position_embeddings": 32_768, "rope_parameters": ROPE}
    config["vision_config"] |= {**size["vision"], "patch_size": PATCH, "num_position_embeddings": 2304}
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config))
    return Policy(model, processor, device=device, **options)


def of_the_small(*, dry: bool) -> dict[str, Callable[[], Any]]:
    """The measures of the model of half a billion weights, by name; the most telling first."""
    from benchmarks import cards

    sizes, policy = settled(SMALL, dry=dry)
    return {
        "log-probs": lambda: cards.precision(policy, 16 if dry else cards.TOKEN_SIDE),
        "attention": lambda: cards.attention_gradient(policy.device),
        "sampling": lambda: cards.host_waits(policy, sizes),
        "resume": lambda: cards.resumed(policy, sizes),
        "offload": lambda: cards.exchanged(policy),
        "two branches": lambda: together(dry=dry),
    }


def of_the_large(*, dry: bool) -> dict[str, Callable[[], Any]]:
    """The measures of the model of four billion weights."""
    import torch

    from benchmarks import cards

    sizes, policy = settled(LARGE, dry=dry, gradient_checkpointing=True)
    roomy = dry or torch.cuda.get_device_properties(0).total_memory > ROOM
    kind = "adamw" if roomy else "adamw_on_cpu"
    return {
        "speed": lambda: cards.speeds(policy, sizes, kind),
        "memory": lambda: dict(cards.peaks(policy, sizes, kind)),
    }


def settled(size: dict[str, Any], *, dry: bool, **options: Any) -> tuple[Any, Any]:
    """The sizes of what is measured, and a policy of this size in bfloat16, or the tiny one of a dry run."""
    import torch

    from benchmarks import cards

    options = {"autocast": torch.bfloat16, "micro_batch_tokens": 65_536, **options}
    if dry:
        return cards.DRY, policy_of(None, "cpu", **options)
    return cards.ON_A_CARD, policy_of(size, "cuda", **options)


def together(*, dry: bool) -> dict[str, float]:
    """Seconds of a branch's steps alone on the card, and of two branches at once, each in its own process."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--branch", *(["--dry-run"] if dry else [])]

    def run(count: int) -> float:
        running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        said = [each.communicate()[0] for each in running]
        if any(each.returncode for each in running):
            raise RuntimeError(f"one of {count} branches failed; its error is above")
        return max(float(each.split()[-1]) for each in said)

    alone, both = run(1), run(2)
    return {"alone": alone, "both": both, "steps a second of both over one": 2 * alone / both}


def branch(*, dry: bool) -> None:
    """Print the seconds of some steps of a small branch, after one that compiles."""
    from benchmarks import cards
    from copd.model.learner import Learner

    sizes, policy = settled(SMALL, dry=dry)
    learner = Learner(policy, learning_rate=sizes.learning_rate)
    rollouts = cards.written(policy, cards.problems("text", 256, 4), sizes.rows, 128 if not dry else 8)
    parts = cards.objectives(policy, rollouts)["GRPO"]
    learner.step(parts)
    print(cards.seconds(lambda: [learner.step(parts) for _ in range(5)]))


def run(*, dry: bool) -> dict[str, Any]:
    """All measures. One that fails says why, and the others go on. On a card each is written as soon as it is made."""
    import torch

    began = time.monotonic()
    found: dict[str, Any] = {
        "card": "none: a dry run on the CPU" if dry else torch.cuda.get_device_name(),
        "memory of the card": None if dry else torch.cuda.get_device_properties(0).total_memory,
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }
    for make in (of_the_small, of_the_large):
        measures = make(dry=dry)
        for name in list(measures):
            found[name] = _done(measures.pop(name), began)
            if not dry:
                RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{time.monotonic() - began:.0f} s: {name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    return found


def _done(measure: Callable[[], Any], began: float) -> Any:
    if time.monotonic() - began > SECONDS:
        return {"left out": f"{SECONDS} seconds had passed"}
    try:
        return measure()
    except Exception as error:  # the card is lent for minutes: the other numbers are wanted too
        traceback.print_exc()
        return {"left out": f"{type(error).__name__}: {error}".splitlines()[0]}


def page(found: dict[str, Any] | None) -> str:
    """docs/gpu.md."""
    if found is None:
        return "# On a card\n\nNot run yet.\n"
    of = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    lines = ["# On a card", "", f"`python -m benchmarks.gpu` on {found['card']}, {of}. Weights are random.", ""]
    lines += ["| what | measured | goal | reached |", "|---|---|---|---|", *_judged(found), ""]
    lines += ["## All numbers", ""]
    for name, value in found.items():
        if isinstance(value, dict) and name != "versions":
            lines += [f"### {name}", "", "| | |", "|---|---|"]
            lines += [f"| {key} | {_written(number)} |" for key, number in value.items()] + [""]
    return "\n".join(lines)


def _judged(found: dict[str, Any]) -> Iterator[str]:
    speed, memory = (found.get(name, {"left out": "not begun"}) for name in ("speed", "memory"))
    if "left out" not in speed:
        ratio = speed["training"] / speed["training, plain path"]
        yield _goal("training, share of the card's bfloat16 peak", speed["share of peak"], GOALS["share of peak"])
        yield _goal("training, packed over plain, prompt as long as 8 responses", ratio, GOALS["packed over plain"])
    for name, each in memory.items() if "left out" not in memory else ():
        off = abs(each["bytes"] / each["formula"] - 1) if each["bytes"] else None
        yield _goal(f"memory of a step, off the formula: {name}", off, GOALS["memory"], "at most")


def _goal(what: str, value: float | None, goal: float, side: str = "at least") -> str:
    if value is None:
        return f"| {what} | not measured | {side} {goal} | - |"
    reached = value >= goal if side == "at least" else value <= goal
    return f"| {what} | {value:.3g} | {side} {goal} | {'yes' if reached else 'no'} |"


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_written(number)}" for key, number in value.items())
    return f"{value:.4g}" if isinstance(value, float) else "not measured" if value is None else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="the tiny model on the CPU, writes nothing; exit status 1: a measure failed",
    )
    parser.add_argument("--page", action="store_true", help="write docs/gpu.md from the numbers that there are")
    parser.add_argument("--branch", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if missing := lacking():
        print(f"benchmarks.gpu needs {', '.join(missing)}: pip install them first", file=sys.stderr)
        return 1
    if asked.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text()) if RESULTS.is_file() else None), encoding="utf-8")
        return 0
    import torch

    if not (asked.dry_run or torch.cuda.is_available()):
        print("benchmarks.gpu: torch sees no card; --dry-run takes the CPU and the tiny model", file=sys.stderr)
        return 1
    if not asked.dry_run and (missing := lacking_for_kernels()):
        print(f"benchmarks.gpu needs {', '.join(missing)}: install them first", file=sys.stderr)
        return 1
    if asked.branch:
        branch(dry=asked.dry_run)
        return 0
    found = run(dry=asked.dry_run)
    if asked.dry_run:
        print(page(found))
        return int(any("left out" in each for each in found.values() if isinstance(each, dict)))
    PAGE.write_text(page(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
