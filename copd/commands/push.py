"""`copd push`: a model of a finished run to the Hugging Face Hub, once its files were looked through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from copd.errors import RecipeError, RunFolderError, WriteError, first_line
from copd.recipe.keys import keys_here
from copd.report.private import BEFORE
from copd.runs.cards import FRONT, RECIPE_FILE
from copd.runs.saved import result_of
from copd.types import MERGED

CARD = "README.md"
PUSHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", CARD, RECIPE_FILE, "LICENSE*", "NOTICE*")
"""The files of a model folder that are pushed. Nothing else in it is."""
TEXTS = (".json", ".jinja", ".txt", ".md", ".yaml")


@dataclass(frozen=True)
class Push:
    """One model folder, the files of it that go, and the repository that they go to."""

    folder: Path
    files: tuple[Path, ...]
    to: str

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files)


def prepare(run: Path, to: str, branch: str | None = None) -> Push:
    """What `push` would upload: the merged model of a finished run, or the model of one branch.

    Raises RecipeError for a name that is no repository's, RunFolderError for a run that has not ended or has no such
    model, and WriteError, naming file and line, if a file holds a folder of this machine or a key of the environment.
    """
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise RecipeError(f"--to: {first_line(error)}") from error
    if to.count("/") != 1:
        raise RecipeError(f"--to: found {to!r}; accepted: ORGANISATION/NAME")
    folder = _folder(run, branch)
    files = tuple(sorted({path for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()}))
    if leak := next(_leaks(files), None):
        raise WriteError(f"{leak}; nothing was uploaded")
    return Push(folder, files, to)


def notes(push: Push) -> Iterator[str]:
    """What a person should know of the model's card before others see it."""
    front = FRONT.match((push.folder / CARD).read_text(encoding="utf-8"))
    head = front[1] if front else ""
    if "\nlicense: " not in f"\n{head}":
        yield f"{CARD}: names no licence, since the base's card names none; add `license: ID` to its head"
    if "\nbase_model: " not in f"\n{head}":
        yield f"{CARD}: names no base_model, since the base is no model of the hub; add `base_model: ID` if it is one"


def upload(push: Push, *, public: bool = False) -> str:
    """Make the repository, private unless `public`, upload the files in one commit, and return its address.

    Account and address of the hub come from huggingface_hub's own environment. Raises WriteError if the hub refuses or
    cannot be reached.
    """
    api = HfApi()
    names = [path.name for path in push.files]
    try:
        api.create_repo(push.to, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=push.to, folder_path=push.folder, allow_patterns=names, commit_message="A model of a copd run"
        )
    except Exception as error:
        raise WriteError(f"{push.to}: cannot be uploaded: {type(error).__name__}: {first_line(error)}") from error
    return str(done.repo_url if hasattr(done, "repo_url") else done)


def _folder(run: Path, branch: str | None) -> Path:
    if not run.is_dir():
        raise RunFolderError(f"{run}: no such folder; accepted: the folder of a run that has come to its end")
    if not result_of(run):
        for above, of in ((run.parent, ""), (run.parent.parent, f" --branch {run.name}")):
            if (run / "config.json").is_file() and result_of(above):
                raise RunFolderError(f"{run}: a model of a run; accepted: the run, as in `copd push {above}{of}`")
        raise RunFolderError(f"{run}: holds no run that has come to its end; `copd train --resume --out {run}` goes on")
    folder = run / MERGED if branch is None else run / "branches" / branch
    if not (folder / "config.json").is_file():
        there = sorted(path.name for path in (run / "branches").glob("*"))
        wanted = "no merged model" if branch is None else f"no branch {branch!r}"
        raise RunFolderError(f"{run}: has {wanted}; accepted: --branch with one of {', '.join(there) or 'none'}")
    return folder


def _leaks(files: tuple[Path, ...]) -> Iterator[str]:
    """File and line of what would tell strangers of this machine, or open it to them."""
    folders = {Path.home(): "the home folder of this machine", Path.cwd(): "a folder of this machine"}
    told = {rf"{BEFORE}{re.escape(str(path))}/\w": what for path, what in folders.items() if path != path.parent}
    told |= {re.escape(key): f"the value of the environment variable {name}" for name, key in keys_here().items()}
    for path in files:
        if path.suffix in TEXTS:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if what := next((what for text, what in told.items() if re.search(text, line)), None):
                    yield f"{path}:{number}: holds {what}"
