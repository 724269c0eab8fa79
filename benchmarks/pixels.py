"""Memory and time that the pixels of a step's pictures take: `python -m benchmarks.pixels --help`.

Pictures of a file of rows are drawn, measured, and encoded in micro-batches, between which one matrix product after
the other stands for the model. The processor is that of Qwen3-VL at its own sizes of patches. Memory is that of this
process: the peak less what was resident before the problems were drawn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from benchmarks.memory import memory_mib
from copd.compute.encode import Encoder
from copd.compute.family import family_of
from copd.model.tiny import CHAT_TEMPLATE, tiny_model, tiny_processor, tiny_tokenizer
from copd.rewards.answers import final_answer
from copd.rows.formats import RowRules
from copd.rows.opening import Settings
from copd.rows.rows import Rows
from copd.types import Split

SIZES = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
PIXELS = {"shortest_edge": 2**16, "longest_edge": 2**24}


def rows(folder: Path, pictures: int, side: int) -> Rows:
    """A task of rows with one smooth picture each."""
    rng = np.random.default_rng(0)
    for number in range(pictures):
        coarse = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    lines = [{"prompt": "?", "answer": "1", "images": [f"{number}.jpg"]} for number in range(pictures)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rules = RowRules(frozenset({"integer"}), partial(final_answer, finished=True), verifier="integer")
    return Rows("seen", {split: [str(folder / "rows.jsonl")] for split in Split}, Settings(rules))


def encoder() -> Encoder:
    """One that makes prompts as Qwen3-VL does, with 768 numbers a patch and frame."""
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**SIZES, size=PIXELS),
        tokenizer=tiny_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**SIZES, size=PIXELS, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )
    return Encoder(family_of(tiny_model(tiny_processor()), processor))


def compute(products: int) -> None:
    """What a model would do with a micro-batch."""
    matrix = torch.ones(1024, 1024)
    for _ in range(products):
        matrix = matrix @ matrix * 1e-4


def measured(folder: Path, pictures: int, side: int, together: int, products: int, *, alone: bool) -> dict[str, float]:
    """Tokens, seconds and MiB of one pass over the pictures."""
    made, task = encoder(), rows(folder, pictures, side)
    made.encode([task.problem(Split.TEST, 0)], torch.device("cpu"))
    before, _ = memory_mib()
    begun = [time.perf_counter()]
    problems = [task.problem(Split.TEST, number) for number in range(pictures)]
    held, _ = memory_mib()
    begun.append(time.perf_counter())
    lengths = made.lengths(problems)
    begun.append(time.perf_counter())
    batches = [problems[first : first + together] for first in range(0, pictures, together)]
    if not alone:
        made.expect(batches)
    for batch in batches:
        made.encode(batch, torch.device("cpu"))
        compute(products)
    begun.append(time.perf_counter())
    drawn, lengthy, passed = (round(end - start, 2) for start, end in pairwise(begun))
    memory = {"drawn_mib": round(held - before), "peak_mib": round(memory_mib()[1] - before)}
    return {"tokens": sum(lengths), "drawn_s": drawn, "lengths_s": lengthy, "passed_s": passed, **memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--together", type=int, default=4, help="pictures of a micro-batch")
    parser.add_argument("--products", type=int, default=4, help="matrix products for each micro-batch")
    parser.add_argument("--alone", action="store_true", help="no thread makes the next micro-batch")
    asked = vars(parser.parse_args())
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(Path(folder), **asked)))


if __name__ == "__main__":
    main()
