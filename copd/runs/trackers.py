"""Trackers, which also get the numbers of `metrics.jsonl`.

A tracker is a function that opens a log for a run and returns two functions: `log(step, numbers)` and `close()`. To add
a tracker, write such a function and enter it in `TRACKERS`. A recipe may also name one of the user's, as file.py:NAME.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from copd.errors import RecipeError
from copd.system.files import replace_text

WANDB_ID = "wandb-id"
"""The file of a run folder that holds the id of its Weights & Biases run, since folder names are not unique there."""
LEFT_OUT = ("event", "step", "seconds", "branch", "student", "teacher", "cycle", "weight", "chance")
"""Keys that only name a record, or never change: no curves are made of them."""
PAIRS = ("overlap", "mass_overlap", "symmetric_kl")
"""Measures of a student and a teacher. Those of a model with itself are always 1 or 0."""


class Log(NamedTuple):
    """An open log."""

    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


def tensorboard(folder: Path, first_step: int, recipe: Mapping[str, Any]) -> Log:
    """Event files in `RUN/tensorboard`. Steps that a resumed run writes again replace the earlier ones."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Log(log, writer.close)


def wandb(folder: Path, first_step: int, recipe: Mapping[str, Any]) -> Log:
    """A Weights & Biases run with the name of the run folder. The folder keeps the run's id. Its x-axis is the step.

    Account and mode come from wandb's own environment. It prints nothing, neither where it syncs to nor its summary
    over the run's result. Raises RecipeError if wandb refuses.
    """
    import wandb

    known = folder / WANDB_ID
    if not known.is_file():
        replace_text(known, secrets.token_hex(8))
    own = known.read_text(encoding="utf-8")
    try:
        run = wandb.init(
            project="copd",
            name=folder.name,
            id=own,
            dir=folder,
            config=dict(recipe),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise RecipeError(f"trackers: wandb: {error}") from error
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return Log(lambda step, numbers: run.log({**numbers, "step": step}) if numbers else None, run.finish)


Opener = Callable[[Path, int, Mapping[str, Any]], Log]
"""Opens a log: (run folder, first step, recipe) -> Log, or another object with `log` and `close`."""
TRACKERS: dict[str, Opener] = {"tensorboard": tensorboard, "wandb": wandb}


def check_trackers(names: Sequence[str]) -> None:
    """Raises RecipeError naming a tracker whose library is not installed.

    A folder with the library's name does not count.
    """
    for name in names:
        if name not in TRACKERS:
            continue
        found = find_spec(name)
        if found is None or found.origin is None:
            raise RecipeError(f"trackers: {name} is not installed: pip install {name}")


def open_trackers(names: Sequence[str | Opener], folder: Path, first_step: int, recipe: Mapping[str, Any]) -> list[Log]:
    """Open trackers, all or none, by the name of ours or by the user's own function.

    Raises RecipeError naming one that cannot be opened.
    """
    logs: list[Log] = []
    with ExitStack() as opened:
        for name in names:
            try:
                opener = TRACKERS[name] if isinstance(name, str) else name
                logs.append(opener(folder, first_step, recipe))
            except ImportError as error:
                raise RecipeError(f"trackers: {name} cannot be imported: {error}") from error
            opened.callback(logs[-1].close)
        opened.pop_all()
    return logs


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
