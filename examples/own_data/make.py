"""Makes the rows and pictures of this folder, always the same ones: `python examples/own_data/make.py [FOLDER]`.

Everything is computed from data that comes with copd and with scikit-image; nothing is fetched. The digits are those of
`copd.tasks.digits`, in its split: those of the test rows were never shown to the base. The photographs are
scikit-image's (`pip install scikit-image`): astronaut and camera for training, coffee for validation, chelsea for
test. They are free to use: astronaut (NASA) is in the public domain, camera (Lav Varshney), coffee (Rachel Michetti)
and chelsea (Stefan van der Walt) are CC0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from copd.tasks.digits import handwriting
from copd.types import Split

Row = dict[str, Any]
PHOTOGRAPHS: dict[Split, tuple[Callable[[], np.ndarray], ...]] = {
    Split.TRAIN: (data.astronaut, data.camera),
    Split.VALIDATION: (data.coffee,),
    Split.TEST: (data.chelsea,),
}
SIZES = {Split.TRAIN: 48, Split.VALIDATION: 16, Split.TEST: 16}
"""Rows of each question about pictures and videos."""
TILE = 16
"""Side of a picture or frame in pixels: one patch of the tiny model."""
REDUCED, STEP, FRAMES = 8, 4, 4
"""A photograph is reduced so many times; a view moves by so many pixels from each of so many frames to the next."""
CLEAR = 10
"""Grey levels by which one half must be brighter than the other."""


def main(folder: Path) -> None:
    """Write all rows and pictures into a folder."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    write(folder / "text.jsonl", sums(rng, 120))
    write(folder / "text_worked.jsonl", worked_chains(rng, 60))
    for split in Split:
        numbers = handwriting()[2][split][: SIZES[split]]
        for number in numbers:
            save(folder, digit_name(number), digit(number))
        write(folder / f"image_{split.value}.jsonl", [*digit_rows(numbers), *halves(folder, split)])
        write(folder / f"video_{split.value}.jsonl", [*digit_videos(rng, numbers), *moving_views(folder, split)])


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    """Save a picture and return its path as rows have it."""
    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name, optimize=True)
    return name


def sums(rng: np.random.Generator, count: int) -> list[Row]:
    """Different sums and differences of two numbers, as copd's own rows."""
    asked: dict[str, int] = {}
    while len(asked) < count:
        a, b = rng.integers(1, 16, 2).tolist()
        asked |= {f"{a}+{b}": a + b} if rng.random() < 0.7 else {f"{a}-{b}": a - b}
    return [
        {"id": f"sum-{i}", "prompt": q, "answer": a, "verifier": "integer"} for i, (q, a) in enumerate(asked.items())
    ]


def worked_chains(rng: np.random.Generator, count: int) -> list[Row]:
    """Different chains of three numbers with a worked solution, as rows of TRL."""
    asked: dict[str, str] = {}
    while len(asked) < count:
        a, b, c = rng.integers(1, 10, 3).tolist()
        asked[f"{a}+{b}-{c}"] = f"{a}+{b} is {a + b}.\nThen {a + b}-{c} is \\boxed{{{a + b - c}}}."
    return [{"prompt": question, "solution": solution} for question, solution in asked.items()]


def digit(number: int) -> np.ndarray:
    """A handwritten digit in the middle of a tile. [16, 16] uint8."""
    tile = np.zeros((TILE, TILE), np.uint8)
    tile[4:12, 4:12] = (handwriting()[0][number] * 255).round()
    return tile


def digit_name(number: int) -> str:
    return f"pictures/digit-{number:04d}.png"


def digit_rows(numbers: np.ndarray) -> list[Row]:
    """One digit each, as copd's own rows."""
    labels = handwriting()[1][numbers].tolist()
    return [
        {"prompt": "Which digit is this?", "images": [digit_name(n)], "answer": label, "verifier": "integer"}
        for n, label in zip(numbers, labels, strict=True)
    ]


def digit_videos(rng: np.random.Generator, numbers: np.ndarray) -> list[Row]:
    """Two digits one after the other, two frames each, as rows of EasyR1."""
    labels, rows = handwriting()[1], []
    for first, second in zip(numbers, rng.permutation(numbers), strict=True):
        frames = [digit_name(n) for n in (first, first, second, second)]
        answer = str(labels[first] + labels[second])
        rows.append({"problem": "usual sum", "videos": [frames], "answer": answer, "data_type": "video"})
    return rows


def views(split: Split, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """Parts of the split's photographs, reduced: name and pixels [16, width, 3], in rows from left to right."""
    for load in PHOTOGRAPHS[split]:
        small = reduced(load())
        for y in range(0, small.shape[0] - TILE + 1, TILE // 2):
            for x in range(0, small.shape[1] - width + 1, STEP):
                yield f"pictures/{load.__name__}-{width}-{y:02d}-{x:02d}.png", small[y : y + TILE, x : x + width]


def reduced(photograph: np.ndarray) -> np.ndarray:
    """A photograph in colour, each square of 8 x 8 pixels replaced by its mean. [H, W, 3] uint8."""
    colour = np.atleast_3d(photograph).repeat(1 if photograph.ndim == 3 else 3, axis=-1).astype(np.int64)
    height, width = (side // REDUCED for side in colour.shape[:2])
    squares = colour[: height * REDUCED, : width * REDUCED].reshape(height, REDUCED, width, REDUCED, 3)
    return (squares.sum((1, 3)) // REDUCED**2).astype(np.uint8)


def halves(folder: Path, split: Split) -> list[Row]:
    """Pieces of photographs whose halves differ in brightness, and their mirror images, as copd's own rows."""
    rows = []
    for name, pixels in spread(
        [*views(split, 2 * TILE)], SIZES[split] // 2, lambda view: abs(brighter(view[1])) >= CLEAR
    ):
        for shown, called in ((pixels, name), (pixels[:, ::-1], name.replace(".png", "-mirrored.png"))):
            image, answer = save(folder, called, shown), 1 if brighter(shown) > 0 else 2
            question = "Which half is brighter, 1 or 2?"
            rows.append({"prompt": question, "images": [image], "answer": answer, "verifier": "integer"})
    return rows


def brighter(pixels: np.ndarray) -> float:
    """Grey levels by which the left half is brighter than the right one."""
    return float(pixels[:, :TILE].mean() - pixels[:, TILE:].mean())


def moving_views(folder: Path, split: Split) -> list[Row]:
    """A view that moves over a photograph, to the left (1) or to the right (2), as rows of EasyR1."""
    there = [*views(split, TILE)]
    starts = [i for i in range(len(there) - FRAMES + 1) if there[i][0][:-7] == there[i + FRAMES - 1][0][:-7]]
    rows = []
    for start in spread(starts, SIZES[split] // 2):
        frames = [save(folder, *view) for view in there[start : start + FRAMES]]
        for answer, order in (("2", frames), ("1", frames[::-1])):
            question = "Which way does it go, 1 or 2?"
            rows.append({"problem": question, "videos": [order], "answer": answer, "data_type": "video"})
    return rows


def spread(items: Sequence[Any], count: int, fits: Callable[[Any], bool] = lambda item: True) -> list[Any]:
    """So many of the items that fit, at equal distances."""
    fitting = [item for item in items if fits(item)]
    assert len(fitting) >= count, f"{len(fitting)} of {count}"
    return [fitting[i * len(fitting) // count] for i in range(count)]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
