"""What trackers get of a run's records: numbers by their names, and samples with their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from copd.runs.pictures import kept_pictures

LEFT_OUT = ("event", "step", "seconds", "branch", "student", "teacher", "cycle", "weight", "chance")
"""Keys that only name a record, or never change: no curves are made of them."""
PAIRS = ("overlap", "mass_overlap", "symmetric_kl")
"""Measures of a student and a teacher. Those of a model with itself are always 1 or 0."""
MOST_PICTURES = 4
"""Most pictures and frames of a sample that a tracker gets."""


class Shown(NamedTuple):
    """A sample: whose answer to what, the text of both, and its pictures."""

    name: str
    text: str
    pictures: Sequence[np.ndarray]


def shown(folder: Path, sample: Mapping[str, Any]) -> Shown:
    """A record of `samples.jsonl` for trackers; its pictures and frames lie in the run folder."""
    frames = (frame for video in sample["videos"] for frame in video["frames"])
    paths = [*sample["images"], *frames][:MOST_PICTURES]
    lines = [f"{name}: {sample[name]}" for name in ("prompt", "response", "answer", "reward")]
    return Shown(f"{sample['branch']}/{sample['capability']}", "\n\n".join(lines), kept_pictures(folder, paths))


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one record of `metrics.jsonl` that may change, each named by its path.

    Such as `update/text/native/reward`, and `teaching/text/from_image/teacher_accuracy` for an edge.
    """
    names = [record["event"]]
    if "branch" in record:
        names.append(record["branch"])
    elif "teacher" in record:
        names += [record["student"], f"from_{record['teacher']}"]
    return dict(_flat(names, {key: value for key, value in record.items() if key not in LEFT_OUT}))


def _flat(names: list[str], value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat([*names, str(key)], item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping) and "model" in item:
                yield from _flat([*names, item["model"], item["capability"]], item.get("greedy", {}).get("value"))
    elif isinstance(value, int | float) and not isinstance(value, bool) and not _with_itself(names):
        yield "/".join(names), float(value)


def _with_itself(names: list[str]) -> bool:
    return names[0] == "behaviour" and names[1] in PAIRS and names[-1] == names[-2]
