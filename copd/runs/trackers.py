"""Trackers, which also get the numbers of `metrics.jsonl`, and samples with their pictures.

A tracker is a function that opens a log for a run. To add one, write such a function and enter it in `TRACKERS`, and
its name in `copd.recipe.sections.TRACKERS`. A recipe may also name one of the user's, as file.py:NAME. No tracker gets
a path of the machine but the user's own, which gets the run folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from copd.errors import RecipeError, first_line
from copd.recipe.sections import TrackerSection
from copd.runs.tracked import Shown
from copd.system.files import replace_text

WANDB_ID, MLFLOW_ID, TRACKIO_NAME = "wandb-id", "mlflow-id", "trackio-name"
"""Files of a run folder that hold what a tracker knows the run by, since names of folders are not unique there."""
LEFT_BY_A_START = ("tensorboard", "wandb", WANDB_ID, MLFLOW_ID, TRACKIO_NAME)
"""What trackers leave in the folder of a run that ends before its first step."""
WAITED = 30
"""Seconds for wandb to reach its server before the run is refused."""
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""User and password in an address."""
PARAMETERS_AT_ONCE = 100
"""As many as MLflow takes in one call."""


class Opening(NamedTuple):
    """What a log is opened for. A run that is resumed writes from `first_step` on again."""

    folder: Path
    first_step: int
    project: str
    name: str
    tags: Sequence[str]
    recipe: Mapping[str, Any]


class Log(NamedTuple):
    """An open log: it takes the numbers of a step, and samples."""

    log: Callable[[int, Mapping[str, float]], None]
    show: Callable[[int, Sequence[Shown]], None]
    close: Callable[[], None]


def tensorboard(opening: Opening) -> Log:
    """Event files in `RUN/tensorboard`. Steps that a resumed run writes again replace the earlier ones."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(opening.folder / "tensorboard"), purge_step=opening.first_step)
    about = "  \n".join(["/".join(opening[2:4]), ", ".join(opening.tags)])
    writer.add_text("run", about, opening.first_step)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def show(step: int, samples: Sequence[Shown]) -> None:
        for sample in samples:
            writer.add_text(f"samples/{sample.name}", sample.text, step)
            for place, picture in enumerate(sample.pictures):
                writer.add_image(f"samples/{sample.name}/{place}", picture, step, dataformats="HWC")
        writer.flush()

    return Log(log, show, writer.close)


def wandb(opening: Opening) -> Log:
    """A Weights & Biases run. The folder keeps the run's id. Its x-axis is the step.

    Account and mode come from wandb's own environment. It prints nothing, neither where it syncs to nor its summary
    over the run's result. It does not note the command, its folder, the host or the repository. Raises RecipeError if
    wandb refuses.
    """
    import wandb

    known = opening.folder / WANDB_ID
    if not known.is_file():
        replace_text(known, secrets.token_hex(8))
    own = known.read_text(encoding="utf-8")
    try:
        run = wandb.init(
            project=opening.project,
            name=opening.name,
            tags=list(opening.tags),
            id=own,
            dir=opening.folder,
            config=dict(opening.recipe),
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                init_timeout=WAITED,
            ),
        )
    except wandb.errors.Error as error:
        raise RecipeError(f"trackers: wandb: {_reason(error)}") from error
    run.define_metric("step")
    run.define_metric("*", step_metric="step")

    def show(step: int, samples: Sequence[Shown]) -> None:
        table = wandb.Table(columns=["sample", "text"], data=[[sample.name, sample.text] for sample in samples])
        pictures = {
            f"samples/{s.name}": [wandb.Image(picture) for picture in s.pictures] for s in samples if s.pictures
        }
        run.log({"samples": table, **pictures, "step": step})

    return Log(lambda step, numbers: run.log({**numbers, "step": step}) if numbers else None, show, run.finish)


def mlflow(opening: Opening) -> Log:
    """A run of MLflow, in the experiment that the project names. The folder keeps the run's id.

    Where it is kept comes from MLflow's own environment. Raises RecipeError if MLflow refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # with 7, its default, a dead address takes 4 minutes
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        client = MlflowClient()
        own = _run_of_mlflow(client, opening)
    except MlflowException as error:
        raise RecipeError(f"trackers: mlflow: {_reason(error)}") from error

    def log(step: int, numbers: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(own, metrics=[Metric(name, value, now, step) for name, value in numbers.items()])

    def show(step: int, samples: Sequence[Shown]) -> None:
        texts = "\n\n".join(f"## {sample.name}\n\n{sample.text}" for sample in samples)
        client.log_text(own, texts, f"samples/step{step + 1}.md")
        for sample in samples:
            for place, picture in enumerate(sample.pictures):
                client.log_image(own, picture, f"samples/step{step + 1}/{sample.name}/{place}.png")

    return Log(log, show, lambda: client.set_terminated(own))


def _reason(error: Exception) -> str:
    """The error in a line, without the login of an address."""
    return LOGIN.sub("***@", first_line(error))


def _run_of_mlflow(client: Any, opening: Opening) -> str:
    """The id of the run that the folder knows, which goes on, or of a new one with tags and the recipe."""
    from mlflow.entities import Param

    known = opening.folder / MLFLOW_ID
    if known.is_file():
        own = known.read_text(encoding="utf-8")
        client.update_run(own, status="RUNNING")
        return own
    found = client.get_experiment_by_name(opening.project)
    experiment = found.experiment_id if found else client.create_experiment(opening.project)
    own = client.create_run(experiment, run_name=opening.name, tags=dict.fromkeys(opening.tags, "")).info.run_id
    parameters = [Param(".".join(path), json.dumps(value)[:500]) for path, value in _fields(opening.recipe, ())]
    for place in range(0, len(parameters), PARAMETERS_AT_ONCE):
        client.log_batch(own, params=parameters[place : place + PARAMETERS_AT_ONCE])
    replace_text(known, own)
    return own


def _fields(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a recipe that are no sections, with their paths."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _fields(inner, (*path, str(key)))
    else:
        yield path, value


def trackio(opening: Opening) -> Log:
    """A run of trackio. Its project has no tags, so they stand in the configuration. It prints nothing.

    Where it is kept comes from trackio's own environment. The folder keeps the name that trackio gave, as it changes
    one that is taken.
    """
    import trackio

    known = opening.folder / TRACKIO_NAME
    begun = known.is_file()
    with redirect_stdout(StringIO()):
        run = trackio.init(
            opening.project,
            name=known.read_text(encoding="utf-8") if begun else opening.name,
            config={**opening.recipe, "tags": list(opening.tags)},
            resume="allow" if begun else "never",
            embed=False,
        )
    replace_text(known, str(run.name))

    def show(step: int, samples: Sequence[Shown]) -> None:
        table = trackio.Table(columns=["sample", "text"], data=[[sample.name, sample.text] for sample in samples])
        pictures = {
            f"samples/{sample.name}/{place}": trackio.Image(picture)
            for sample in samples
            for place, picture in enumerate(sample.pictures)
        }
        run.log({"samples": table, **pictures}, step=step)

    def close() -> None:
        with redirect_stdout(StringIO()):
            run.finish()

    return Log(lambda step, numbers: run.log(dict(numbers), step=step) if numbers else None, show, close)


TRACKERS: dict[str, Callable[[Opening], Log]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
}


Opener = Callable[[Path, int, Mapping[str, Any]], Any]
"""The user's way to open a log: (run folder, first step, recipe) -> an object with `log`, `close`, perhaps `show`."""


def _opened(opener: Opener, opening: Opening, kind: str) -> Log:
    """A log of the user's. Raises RecipeError naming the tracker, from here on and from each of its calls."""
    with _named(kind):
        log = opener(opening.folder, opening.first_step, opening.recipe)
    if missing := [name for name in ("log", "close") if not callable(getattr(log, name, None))]:
        raise RecipeError(
            f"trackers: {kind} returned {type(log).__name__} without {' and '.join(missing)}; accepted: an object "
            "with log(step, numbers) and close()"
        )
    return Log(*(_named(kind)(getattr(log, name, _nothing)) for name in Log._fields))


def _nothing(*_: Any) -> None:
    """For a log that shows no samples."""


@contextmanager
def _named(kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise RecipeError(f"trackers: {kind} fails: {type(error).__name__}: {first_line(error)}") from error


def check_trackers(trackers: Sequence[TrackerSection]) -> None:
    """Raises RecipeError naming a tracker whose library is not installed.

    A folder with the library's name does not count.
    """
    for name in (tracker.kind for tracker in trackers if tracker.kind in TRACKERS):
        found = find_spec(name)
        if found is None or found.origin is None:
            raise RecipeError(f"trackers: {name} is not installed: pip install 'copd[{name}]'")


@contextmanager
def opened_trackers(
    trackers: Sequence[TrackerSection],
    folder: Path,
    first_step: int,
    recipe: Mapping[str, Any],
    own: Sequence[Opener | None] = (),
) -> Iterator[list[Log]]:
    """Open these trackers, and close them at the end. `recipe` holds no path.

    Raises RecipeError naming one that cannot be opened; those that were opened before are closed.

    `own` has the user's function in the place of each tracker that is the user's, and None in the others'.
    """
    logs: list[Log] = []
    with ExitStack() as opened:
        for place, tracker in enumerate(trackers):
            opening = Opening(folder, first_step, tracker.project, tracker.name or folder.name, tracker.tags, recipe)
            try:
                mine = own[place] if place < len(own) else None
                logs.append(TRACKERS[tracker.kind](opening) if mine is None else _opened(mine, opening, tracker.kind))
            except ImportError as error:
                raise RecipeError(f"trackers: {tracker.kind} cannot be imported: {error}") from error
            opened.callback(logs[-1].close)
        yield logs
