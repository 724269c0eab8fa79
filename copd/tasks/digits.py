"""The embedded world: arithmetic on typed numbers, on real handwritten digits, and on digits that move.

Three capabilities share one language. A problem asks for the sum, maximum, minimum or first-minus-last of a few
numbers (text also asks for chains such as 7+8-3); the worked solution repeats the numbers, lists the partial results
and ends in `\\boxed{}`. On a share `conflict` of the problems the question says "usual", and then each capability
follows its own convention for the shared words (`CONVENTION_OF`), so that learning one capability unlearns another's.

A problem is a pure function of (seed, capability, split, index). Handwriting is split by picture, text by a hash of
the canonical problem, in which the order of the numbers counts only where it matters. Validation and test ignore the
run's seed, and no canonical text comes twice in them: an interval may count every problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np

from copd.errors import RecipeError
from copd.types import Problem, Split

Capability = Literal["text", "image", "video"]
Operator = Literal["sum", "max", "min", "diff", "chain"]
Convention = Literal["plain", "modulo", "swapped"]

CAPABILITIES: tuple[Capability, ...] = ("text", "image", "video")
OPERATORS_OF: dict[Capability, tuple[Operator, ...]] = {
    "text": ("sum", "max", "min", "diff", "chain"),
    "image": ("sum", "max", "min", "diff"),
    "video": ("sum", "max", "min", "diff"),
}
CONVENTION_OF: dict[Capability, Convention] = {"text": "modulo", "image": "plain", "video": "swapped"}
UNDECIDED: tuple[Convention, ...] = ("plain", "modulo", "modulo", "swapped", "swapped")
"""What "usual" means in the warm-up.

"plain" agrees with one of the others on most words, and is therefore drawn half as often. So plain sum and plain
maximum are right in 3 of 5 draws; with equal shares the base would settle on both.
"""
WORDS: dict[Operator, str] = {
    "sum": "sum",
    "max": "max",
    "min": "min",
    "diff": "first minus last",
    "chain": "value",
}
MAX_DRAWS = 10_000
"""Most texts drawn to find one that belongs to the split and is new in it. For train, 1.3 are needed on average."""
HANDWRITING = Path(str(files("copd"))) / "assets" / "handwriting" / "digits.csv.gz"
"""One digit a line: 64 grey levels in 0..16, row by row, then the label."""
CELL = 16
"""Side in pixels of the square that holds one 8 x 8 handwritten digit."""


@cache
def handwriting() -> tuple[np.ndarray, np.ndarray, dict[Split, np.ndarray]]:
    """The 1,797 digits of people: pictures [n, 8, 8] in 0..1, labels [n], and the indices of each split."""
    table = np.loadtxt(HANDWRITING, delimiter=",")
    pictures, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = np.split(order, [int(0.7 * len(order)), int(0.85 * len(order))])
    return pictures / 16.0, labels, dict(zip(Split, parts, strict=True))


def partial_results(numbers: Sequence[int], operator: Operator, convention: Convention) -> list[int]:
    """The results after each step, the last one being the answer.

    "modulo" takes every partial result modulo ten; "swapped" exchanges maximum and minimum and subtracts the first
    from the last; "plain" is the ordinary meaning.
    """
    if convention == "swapped":
        operator = {"max": "min", "min": "max"}.get(operator, operator)  # type: ignore[assignment]
        numbers = numbers[::-1] if operator == "diff" else numbers
    steps: dict[Operator, Callable[[int, int], int]] = {
        "sum": lambda a, b: a + b,
        "chain": lambda a, b: a + b,
        "max": max,
        "min": min,
        "diff": lambda a, b: a - b,
    }
    operands = [numbers[0], numbers[-1]] if operator == "diff" else list(numbers)
    step, modulo = steps[operator], convention == "modulo"
    results = accumulate(operands, lambda a, b: step(a, b) % 10 if modulo else step(a, b))
    return list(results)[1:]


def worked_solution(numbers: Sequence[int], operator: Operator, convention: Convention) -> str:
    """The numbers as read, the partial results, the boxed answer: `3 8 5;11,16;\\boxed{16}`."""
    results = partial_results(numbers, operator, convention)
    return f"{written(numbers, operator)};{','.join(map(str, results))};\\boxed{{{results[-1]}}}"


def written(numbers: Sequence[int], operator: Operator) -> str:
    """Numbers as they stand in a text prompt: `3 8 5`, or `3+8-5` for a chain."""
    if operator == "chain":
        return str(numbers[0]) + "".join(f"{n:+d}" for n in numbers[1:])
    return " ".join(map(str, numbers))


@dataclass(frozen=True)
class Digits:
    """One capability of the embedded world; a `copd.types.Task`.

    seed         of the training problems; validation and test ignore it
    conflict     share of problems that follow the capability's own convention
    operators    drawn from for each problem; None = all of the capability's (`OPERATORS_OF`)
    length       least and greatest number of operands
    max_number   greatest operand of a text problem (handwriting has 0 to 9)
    noise        standard deviation of the pixel noise, where black to white is 1
    jitter       greatest distance of a digit from the centre of its cell, in pixels
    conventions  what "usual" may mean, drawn per problem; None = the capability's own. The warm-up draws from all.
    """

    capability: Capability
    seed: int = 0
    conflict: float = 0.0
    operators: tuple[Operator, ...] | None = None
    length: tuple[int, int] = (2, 4)
    max_number: int = 12
    noise: float = 0.1
    jitter: int = 2
    conventions: tuple[Convention, ...] | None = None

    @property
    def name(self) -> str:
        return self.capability

    def problem(self, split: Split, index: int) -> Problem:
        seed = self.seed if split is Split.TRAIN else 0
        key = (seed, CAPABILITIES.index(self.capability), list(Split).index(split), index)
        rng = np.random.default_rng(key)
        usual = bool(rng.random() < self.conflict)
        allowed = self.conventions or (CONVENTION_OF[self.capability],)
        convention: Convention = allowed[rng.integers(len(allowed))] if usual else "plain"
        marker = "usual " if usual else ""
        identity = f"{self.capability}/{split.value}/{seed}/{index}"
        if self.capability == "text":
            if split is Split.TRAIN:
                operator, numbers = self._draw_text(rng, split, frozenset())
            else:
                operator, numbers = _texts(replace(self, seed=0, conflict=0.0, conventions=None), split).at(index)
            question = f"{marker}{WORDS[operator]}: {written(numbers, operator)}"
            return self._assemble(identity, question, numbers, operator, convention)
        return self._picture(rng, split, identity, marker, convention)

    def _draw_operator(self, rng: np.random.Generator) -> Operator:
        operators = self.operators or OPERATORS_OF[self.capability]
        return operators[rng.integers(len(operators))]

    def _draw_length(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.length[0], self.length[1] + 1))

    def _draw_text(self, rng: np.random.Generator, split: Split, taken: Set[str]) -> tuple[Operator, list[int]]:
        """Operator and numbers of a text of the split whose canonical form is not in `taken`."""
        for _ in range(MAX_DRAWS):
            operator = self._draw_operator(rng)
            numbers = rng.integers(0, self.max_number + 1, self._draw_length(rng)).tolist()
            if operator == "chain":
                numbers[1:] = [n if rng.random() < 0.5 else -n for n in numbers[1:]]
            canonical = canonical_text(numbers, operator)
            if _split_of_text(canonical) is split and canonical not in taken:
                return operator, numbers
        raise RecipeError(
            f"{len(taken)} different {split.value} problems found, and no other among {MAX_DRAWS} more; operators, "
            "length or max_number leave too few for three splits"
        )

    def _picture(
        self, rng: np.random.Generator, split: Split, identity: str, marker: str, convention: Convention
    ) -> Problem:
        pictures, labels, members = handwriting()
        operator = self._draw_operator(rng)
        chosen = rng.choice(members[split], self._draw_length(rng))
        numbers = labels[chosen].tolist()
        question = f"{marker}{WORDS[operator]}"
        sources = tuple(f"handwriting/{i}" for i in chosen)
        if self.capability == "image":
            cells = [self._cell(rng, pictures[i], self._offset(rng)) for i in chosen]
            images = (_to_rgb(np.concatenate(cells, axis=1)),)
            problem = self._assemble(identity, question, numbers, operator, convention, images=images)
            return replace(problem, sources=sources)
        frames = [self._cell(rng, pictures[i], at) for i in chosen for at in self._path(rng)]
        videos = (np.stack([_to_rgb(frame) for frame in frames]),)
        problem = self._assemble(identity, question, numbers, operator, convention, videos=videos)
        return replace(problem, sources=sources)

    def _assemble(
        self,
        identity: str,
        prompt: str,
        numbers: list[int],
        operator: Operator,
        convention: Convention,
        *,
        images: tuple[np.ndarray, ...] = (),
        videos: tuple[np.ndarray, ...] = (),
    ) -> Problem:
        answer = str(partial_results(numbers, operator, convention)[-1])
        solution = worked_solution(numbers, operator, convention)
        return Problem(identity, self.name, prompt, answer, "integer", solution, images, videos)

    def _offset(self, rng: np.random.Generator) -> np.ndarray:
        return (CELL - 8) // 2 + rng.integers(-self.jitter, self.jitter + 1, 2)

    def _path(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The place of a digit in each of its two frames (the model merges frames in pairs)."""
        start, move = self._offset(rng), rng.integers(-1, 2, 2)
        return start, np.clip(start + move, 0, CELL - 8)

    def _cell(self, rng: np.random.Generator, picture: np.ndarray, offset: np.ndarray) -> np.ndarray:
        cell = np.zeros((CELL, CELL))
        y, x = offset
        cell[y : y + 8, x : x + 8] = picture
        return np.clip(cell + rng.normal(0, self.noise, cell.shape), 0, 1)


class _Texts:
    """The texts of a split in the order of their indices, each canonical one once."""

    def __init__(self, task: Digits, split: Split) -> None:
        self._task, self._split = task, split
        self._drawn: list[tuple[Operator, list[int]]] = []
        self._taken: set[str] = set()

    def at(self, index: int) -> tuple[Operator, list[int]]:
        while len(self._drawn) <= index:
            rng = np.random.default_rng((list(Split).index(self._split), len(self._drawn)))
            operator, numbers = self._task._draw_text(rng, self._split, self._taken)
            self._drawn.append((operator, numbers))
            self._taken.add(canonical_text(numbers, operator))
        return self._drawn[index]


_texts = cache(_Texts)


def canonical_text(numbers: Sequence[int], operator: Operator) -> str:
    """The canonical form of a question. If the order of the numbers does not matter, it does not change the form."""
    return f"{WORDS[operator]}: {' '.join(map(str, numbers if operator == 'diff' else sorted(numbers)))}"


def _split_of_text(canonical: str) -> Split:
    bucket = hashlib.sha256(canonical.encode()).digest()[0]
    return Split.TRAIN if bucket < 204 else Split.VALIDATION if bucket < 230 else Split.TEST


def _to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
