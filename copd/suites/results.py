"""What one model reached on one benchmark, as a file that a later call of the command finds again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from copd.errors import DataError, RecipeError, WriteError, first_line
from copd.system.files import replace_text

COMPARED = ("settings", "rows_sha256", "model_sha256")
"""What a result must share with what is asked for now, else it is another measurement."""

Score = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Result:
    """The scores of one model on one benchmark.

    ids            the problems, in their order
    scores         for each problem the score of each sample, 0 to 1
    settings       all that the suite and the command say of the measurement
    rows_sha256    the digest of the file of rows; empty if the harness fetches its problems itself
    model_sha256   the digest of the model's files
    versions       of the libraries that asked and graded
    cut            responses that ended at max_new_tokens; None if the harness does not tell
    placeholders   responses that hold a placeholder of an image or video, which no right response does
    tokens         mean length of the responses; None if the harness does not tell
    told           the harness's own number, as it prints it
    """

    model: str
    benchmark: str
    ids: list[str]
    scores: list[list[Score]]
    settings: dict[str, Any]
    rows_sha256: str
    model_sha256: str
    versions: dict[str, str]
    seconds: float
    cut: int | None = None
    placeholders: int = 0
    tokens: float | None = None
    told: float | str | None = None
    further: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """k of avg@k."""
        return len(self.scores[0])

    @property
    def means(self) -> list[float]:
        """The mean over the samples of each problem."""
        return [sum(scores) / len(scores) for scores in self.scores]


RESULT = TypeAdapter(Result)


def folder_name(model: str) -> str:
    """The folder of a model's results: the words that name the model, as a file system takes them."""
    return re.sub(r"[^\w.@-]+", "_", model).strip("_.") or "model"


def place_of(out: Path, model: str, benchmark: str) -> Path:
    """The file of a result."""
    return out / folder_name(model) / f"{benchmark}.json"


def write_result(out: Path, result: Result) -> Path:
    """Write a result into its place. Raises WriteError."""
    path = place_of(out, result.model, result.benchmark)
    make_folder(path.parent)
    lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in asdict(result).items())
    replace_text(path, "{" + ",\n ".join(lines) + "}\n")
    return path


def make_folder(folder: Path) -> None:
    """Make a folder, with those that it lies in. Raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error


def read_result(path: Path) -> Result | None:
    """The result in a file; None if there is no file. Raises DataError for another file than `write_result` writes."""
    try:
        result = RESULT.validate_json(path.read_bytes())
        lengths = {len(scores) for scores in result.scores}
        if len(lengths) != 1 or lengths == {0} or len(result.ids) != len(result.scores):
            raise ValueError("its scores are not a table of samples for each id")
        return result
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise DataError(f"{path}: no result of copd benchmark: {wrong}; move it away") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no result of copd benchmark: {first_line(error)}; move it away") from error


def check_same(path: Path, found: Result, asked: Mapping[str, Any]) -> None:
    """Raise RecipeError, naming the first difference, if a result is of another measurement than is `asked` for."""
    for name in COMPARED:
        then, now = getattr(found, name), asked[name]
        if then == now:
            continue
        if isinstance(then, dict):
            name = next(key for key in sorted({*then, *now}) if then.get(key) != now.get(key))
            then, now = then.get(name), now.get(name)
        raise RecipeError(
            f"{path}: was made with {name} {_short(then)}, now it is {_short(now)}; move the file away to measure "
            "again, or give another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
