"""The contents of a run's page: plain values for the templates, without markup except for figures."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copd.measure.compare import Difference
from copd.measure.evaluate import Accuracy, Estimate, columns_of
from copd.measure.ledger import ACTIVITIES
from copd.report import words
from copd.report.reading import RunRecord, Spent

MOST_MATRICES = 12
"""Most points in time at which matrices are shown. Of more, this many at equal distances are shown."""
MOST_MEDIA_BYTES = 4_000_000
"""Most bytes of pictures on a page. Further pictures are left out, and the page says so."""
STRONGEST_DELTA = 3.0
"""Nats at which a token has its full colour."""
FAINTEST_DELTA = 0.05
"""Nats below which a token has no colour."""
MOST_DISPUTED = 10
MOST_WARNINGS = 100
SHOWN_CHARACTERS = 1_200
"""Most characters shown of a prompt, and of a response in the history."""
COUNTS = ("rollouts", "tokens_generated", "tokens_scored", "tokens_trained")
Row = tuple[str, str, list[Estimate | None]]
"""A model, its name on the page, and its estimate in each capability."""
SPECIAL = re.compile(r"<\|.*\|>")


@dataclass(frozen=True)
class Bar:
    """An interval on a scale, as positions in per cent of the scale's width."""

    low: float
    high: float
    at: float


@dataclass(frozen=True)
class Matrix:
    """Numbers by row and column at one time; `strength` in [0, 1] says how strongly each is coloured, None = not."""

    step: int
    phase: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[float | None, float | None]]]]


def share_scale(groups: Sequence[tuple[str, Sequence[Row]]]) -> tuple[int, int]:
    """The tens of per cent between which all intervals of a table lie."""
    estimates = [e for _, rows in groups for *_, cells in rows for e in cells if e]
    low = min((math.floor(10 * e.low) for e in estimates), default=0)
    high = max((math.ceil(10 * e.high) for e in estimates), default=10)
    return 10 * low, 10 * high


def share_bar(estimate: Estimate, scale: tuple[int, int]) -> Bar:
    """On a scale in per cent."""
    low, high = scale
    return Bar(*(100 * (100 * v - low) / (high - low) for v in (estimate.low, estimate.high, estimate.value)))


def difference_bars(differences: Mapping[Any, Difference]) -> dict[Any, Bar]:
    """On one scale around 0 that holds all intervals."""
    widest = max((abs(end) for d in differences.values() for end in (d.greedy.low, d.greedy.high)), default=1.0)
    ends = {key: (d.greedy.low, d.greedy.high, d.greedy.value) for key, d in differences.items()}
    return {key: Bar(*(50 + 50 * value / widest for value in values)) for key, values in ends.items()}


def accuracy_tables(run: RunRecord) -> list[tuple[str, list[str], list[Row]]]:
    """Title, columns and rows of greedy accuracy and of each pass@k."""
    if not run.table:
        return []
    capabilities = columns_of(run.capabilities)
    ks = sorted({k for cell in run.table for k in cell.pass_at})

    def rows(estimate: Callable[[Accuracy], Estimate]) -> list[Row]:
        return [
            (m, words.model_label(m), [estimate(run.cell(m, capability)) for capability in capabilities])
            for m in run.models
        ]

    sampled = [(f"pass@{k}", capabilities, rows(lambda cell: cell.pass_at[k])) for k in ks]  # noqa: B023
    return [("Greedy accuracy", capabilities, rows(lambda cell: cell.greedy)), *sampled]


def matrices(run: RunRecord) -> list[tuple[str, str, list[Matrix]]]:
    """Name, explanation and small multiples of overlap, divergence and accuracy; the first two need two branches."""
    found = []
    behaviour = _spread(run.events("behaviour"))
    branches = list(behaviour[0]["accuracy"])
    if len(branches) > 1:
        k = max(behaviour[0]["overlap"], key=int)
        unlike = [(point, point["overlap"][k]) for point in behaviour]
        far = [(point, point["symmetric_kl"]) for point in behaviour]
        least = min(_values(square for _, square in unlike), default=0.0)
        most = max(_values(square for _, square in far), default=0.0)
        chance = behaviour[0].get("chance", {}).get(k)
        found.append(
            (
                f"Top-{k} overlap",
                f"Share of the student's {k} likeliest tokens that are among the teacher's too, on the student's own "
                "answers; the stronger the colour, the less alike."
                + ("" if chance is None else f" Two policies that know nothing of each other reach {chance:.2f}."),
                [_matrix(p, square, lambda v: (1 - v) / max(1e-9, 1 - least)) for p, square in unlike],
            )
        )
        exact = all(point.get("kl_is_exact", True) for point in behaviour)
        found.append(
            (
                "Symmetric KL",
                "Nats per token, on the student's own answers; the stronger the colour, the less alike."
                + ("" if exact else " Approximate: the student's likeliest tokens and one bucket for the rest."),
                [_matrix(p, square, lambda v: v / max(1e-9, most)) for p, square in far],
            )
        )
    values = _values(point["accuracy"] for point in behaviour)
    low, high = min(values), max(values)
    found.append(
        (
            "Accuracy of each branch in each capability",
            "Share of sampled answers to validation problems that are right; the stronger the colour, the more.",
            [_matrix(p, p["accuracy"], lambda v: (v - low) / max(1e-9, high - low), diagonal=True) for p in behaviour],
        )
    )
    return found


def _values(squares: Iterable[Mapping[str, Mapping[str, float | None]]]) -> list[float]:
    """All numbers; one that was not finite is recorded as None."""
    return [v for square in squares for row in square.values() for v in row.values() if v is not None]


def _matrix(
    point: Mapping[str, Any],
    square: Mapping[str, Mapping[str, float | None]],
    strength: Callable[[float], float],
    diagonal: bool = False,
) -> Matrix:
    columns = list(next(iter(square.values())))
    rows = [
        (name, [(v, strength(v) if v is not None and (diagonal or c != name) else None) for c, v in row.items()])
        for name, row in square.items()
    ]
    return Matrix(point["step"] + 1, point["phase"], columns, rows)


def _spread(items: Sequence[Any]) -> list[Any]:
    """All items, or `MOST_MATRICES` of them at equal distances, including the first and the last."""
    if len(items) <= MOST_MATRICES:
        return list(items)
    last = MOST_MATRICES - 1
    return [items[round(i * (len(items) - 1) / last)] for i in range(MOST_MATRICES)]


def poor_teachers(run: RunRecord) -> tuple[int, int]:
    """How often a teacher was clearly worse than its student on its own capability, and how often it was measured."""
    looks = [look for look in run.events("teaching") if look["step"] >= 0 and "lead" in look]
    return sum(look["lead_high"] < 0 for look in looks), len(looks)


def warnings(run: RunRecord) -> tuple[list[tuple[int, str, str]], int]:
    """Steps done, guard and message of the first `MOST_WARNINGS` warnings, and how many more there were."""
    given = [(warning["step"] + 1, warning["guard"], warning["message"]) for warning in run.events("warning")]
    return given[:MOST_WARNINGS], max(0, len(given) - MOST_WARNINGS)


def ledger_rows(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The cost of each branch of each finished run in each phase. Seconds are also shares of the longest row of all."""
    rows = [
        {"run": run.label, "branch": branch, "phase": phase, "counts": [spent[name] for name in COUNTS]}
        | {"seconds": [spent[name] for name in ACTIVITIES]}
        for run in runs
        if run.ledger
        for branch, phases in run.ledger["spent"].items()
        for phase, spent in phases.items()
    ]
    longest = max((sum(row["seconds"]) for row in rows), default=0) or 1
    return [{**row, "shares": [100 * s / longest for s in row["seconds"]]} for row in rows]


def time_spent(run: RunRecord) -> dict[str, float]:
    """Seconds of this run by activity over all branches, the rest of the clock, and the critical path.

    The rest is below 0 if branches trained at the same time, so that their seconds together exceed the clock's.

    `adopted` are the training seconds, in another run, of experts taken over from it. `saving` and `between_saves` are
    the seconds of the process that finished the run.
    """
    before = run.adopted
    ledger = run.ledger or before
    all_of, not_here = (_seconds(record["spent"]) for record in (ledger, before))
    spent = {name: total - not_here[name] for name, total in all_of.items()}
    path = sum(ledger["critical_path"].values()) - sum(before["critical_path"].values())
    training = sum(spent.values())
    rest = {"training": training, "clock": run.seconds, "rest": run.seconds - training, "critical_path": path}
    saving = {"saving": ledger.get("save_seconds", 0.0), "between_saves": ledger.get("between_saves_seconds", 0.0)}
    return {**spent, **rest, **saving, "adopted": sum(not_here.values())}


def _seconds(spent: Spent) -> dict[str, float]:
    """Seconds by activity, summed over all branches and phases."""
    rows = [row for phases in spent.values() for row in phases.values()]
    names = ("sampling", "scoring", "updating")
    return {name: sum(row[key] for row in rows) for name, key in zip(names, ACTIVITIES, strict=True)}


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a recipe with its path."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flattened(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, "none" if value is None else str(value)


def sampled_problems(run: RunRecord, most_media_bytes: int = MOST_MEDIA_BYTES) -> list[dict[str, Any]]:
    """The problems of the last samples, each with its media, the answer of every branch, and their history.

    Pictures beyond `most_media_bytes` in all are None.
    """
    last = [sample for sample in run.samples if sample["step"] == run.samples[-1]["step"]]
    media, found = _Media(run.folder, most_media_bytes), []
    for problem, capability in dict.fromkeys((sample["problem"], sample["capability"]) for sample in last):
        own = [sample for sample in last if (sample["problem"], sample["capability"]) == (problem, capability)]
        earlier = [s for s in run.samples if (s["problem"], s["capability"]) == (problem, capability)]
        found.append(
            {
                "capability": capability,
                "prompt": _cut(own[0]["prompt"]),
                "answer": own[0]["answer"],
                "images": [media.uri(path) for path in own[0].get("images", ())],
                "videos": [
                    {**video, "frames": [media.uri(path) for path in video["frames"]]}
                    for video in own[0].get("videos", ())
                ],
                "answers": [_answer(sample, capability) for sample in own],
                "branches": list(dict.fromkeys(sample["branch"] for sample in own)),
                "history": _history(earlier),
            }
        )
    return found


def _history(samples: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, tuple[str, float]]]]:
    """For each number of steps done, each branch's response and its reward."""
    steps: dict[int, dict[str, tuple[str, float]]] = {}
    for sample in samples:
        steps.setdefault(sample["step"] + 1, {})[sample["branch"]] = _cut(sample["response"]), sample["reward"]
    return list(steps.items())


def _answer(sample: Mapping[str, Any], capability: str) -> dict[str, Any]:
    """One response as tokens, coloured by the branch that owns the capability, or else by the first other branch."""
    pieces, delta = sample.get("tokens"), sample.get("delta", {})
    teacher = capability if capability in delta else next(iter(delta), None)
    named = {"branch": sample["branch"], "label": words.model_label(sample["branch"])}
    common = {**named, "response": sample["response"], "reward": sample["reward"]}
    if not pieces:
        return {**common, "tokens": None}
    own = sample["logp"]
    tokens = [
        _token(piece, own[i], None if teacher is None else delta[teacher][i], teacher) for i, piece in enumerate(pieces)
    ]
    by_token = [{name: values[i] for name, values in delta.items()} for i in range(len(pieces))]
    size = [max((abs(value or 0) for value in values.values()), default=0) for values in by_token]
    largest = sorted((i for i in range(len(pieces)) if size[i] >= FAINTEST_DELTA), key=lambda i: -size[i])
    disputed = [
        {"position": i + 1, "token": pieces[i], "logp": own[i], "delta": by_token[i]}
        for i in sorted(largest[:MOST_DISPUTED])
    ]
    left_out = sample["tokens_in_all"] - len(pieces)
    return {**common, "tokens": tokens, "teacher": teacher, "disputed": disputed, "left_out": left_out}


def _token(piece: str, own: float | None, delta: float | None, teacher: str | None) -> dict[str, Any]:
    """A token with the text shown when it is pointed at, and the side and strength of its colour."""
    known = own is not None and delta is not None
    strong = known and abs(delta) >= FAINTEST_DELTA  # type: ignore[arg-type]
    return {
        "text": piece.replace("\n", "↵\n") or "◌",
        "special": bool(SPECIAL.fullmatch(piece)),
        "side": "" if not strong else "more" if delta > 0 else "less",  # type: ignore[operator]
        "strength": round(min(1.0, abs(delta) / STRONGEST_DELTA), 2) if strong else 0,  # type: ignore[arg-type]
        "said": f"{teacher} {delta:+.2f} nats, itself {own:.2f}" if known else "",
    }


def _cut(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:SHOWN_CHARACTERS]} … ({left:,} more characters)"


class _Media:
    """Pictures of a run folder as data URIs, up to a bound for all together."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.left = folder, most_bytes

    def uri(self, path: str) -> str | None:
        """The picture as a data URI; None if it is missing or would exceed the bound."""
        file = self.folder / path
        if not file.resolve().is_relative_to(self.folder.resolve()) or not file.is_file():
            return None
        content = file.read_bytes()
        if len(content) > self.left:
            return None
        self.left -= len(content)
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"
