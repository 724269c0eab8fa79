"""`copd init`: a recipe for files of rows and a model, with guesses that its comments tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from copd.assemble.rows import rules_of, ungradable
from copd.assemble.tasks import make_tasks
from copd.commands.init_yaml import GUESSED, Branch, Model, best_guess, is_plain, sizes_of, written
from copd.errors import CopdError, DataError, ModelFolderError
from copd.model.folders import SETTINGS, family_in, is_local, model_folder, without_weights
from copd.recipe.evaluation import FEW, MOST
from copd.recipe.reading import load_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.rewards.grading import OURS
from copd.rewards.verifiers import REFERENCES
from copd.rows.check import UNNAMED
from copd.rows.hub import NAMES_OF_SPLIT, repository_of
from copd.rows.opening import Settings
from copd.rows.survey import Survey, survey
from copd.system.files import HUB
from copd.system.hub import commit_of
from copd.types import RESERVED_NAMES, Split

FORM = "boxed"
NEARLY_ALL = 0.9
"""A verifier that reads so many of a file's answers is taken; the other rows are left out."""
MANY_BAD = 0.5
"""A file with a larger share of bad rows is refused."""
MAIN = "main"
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?")
SPLITS = "|".join(name for names in NAMES_OF_SPLIT.values() for name in names)
NO_NAME = re.compile(rf"(?:^|[-_])(?:\d+|of|data|\*|{SPLITS})(?=[-_]|$)")
"""The parts of file names that say nothing of what the rows ask."""
VALIDATION = re.compile(rf"(?:^|[-_])(?:{'|'.join(NAMES_OF_SPLIT['validation'])})(?=[-_]|$)")
TOLD = 3
"""Most notes on the rows of a file that are told."""


def recipe_for(model: str, files: Sequence[str], tell: Callable[[str], None]) -> str:
    """The YAML of a recipe that trains a model on files of rows, one branch for each. `tell` takes warnings.

    Raises DataError for a file that cannot be used, ModelFolderError for a model that cannot, or does not take a file's
    pictures.
    """
    about = _model(model)
    branches: list[Branch] = []
    for at, file in enumerate(files):
        if file in files[:at]:
            raise DataError(f"{file}: is given twice; each file is a branch of its own")
        branches.append(_branch(file, about, {each.name for each in branches}, tell))
    least, asked = min(branches, key=lambda branch: branch.sizes[Split.TEST]), sizes_of(branches)["problems"]
    if asked < FEW:
        tell(
            f"{least.found.file}: leaves {asked} test problems, so one is {100 / asked:.0f} points of an accuracy; "
            f"give more rows, or write `test: FILE` into {least.name}"
        )
    text = written(about, branches)
    make_tasks(load_recipe(parse_yaml(text, "the new recipe")))
    return text


def _model(given: str) -> Model:
    """Raises ModelFolderError for what is no model."""
    path, commit = given, None
    named = None if is_local(given) or Path(given).is_file() else HUB_ID.fullmatch(given)
    if named:
        path, revision = named[1], named[2] or MAIN
        try:
            commit = commit_of(path, revision, "model")
        except CopdError as error:
            raise ModelFolderError(f"--model: no folder {given!r} here; {error}") from error
    folder = model_folder(path, "--model", commit, SETTINGS)
    shell = without_weights(folder)
    context = getattr(shell.config.get_text_config(), "max_position_embeddings", None)
    return Model(path, commit, family_in(folder, shell).kinds, context)


def _branch(file: str, model: Model, taken: set[str], tell: Callable[[str], None]) -> Branch:
    commit = None
    if file.startswith(HUB):
        try:
            commit = commit_of(repository_of(file), MAIN, "dataset")
        except CopdError as error:
            raise DataError(f"{file}: {error}") from error
    settings = Settings(rules_of(FORM, verifiers=OURS, verifier=UNNAMED), revision=commit)
    readers = {name: partial(_reads, name) for name in REFERENCES}
    found = survey(file, settings, UNNAMED, readers)
    if found.bad > MANY_BAD * (found.bad + found.rows):
        raise DataError(f"{file}: {found.bad} of {found.bad + found.rows} rows are bad, the first: {found.first_bad}")
    if strangers := sorted(set(found.kinds) - set(model.kinds)):
        raise ModelFolderError(
            f"{file}: its rows hold {' and '.join(strangers)}; {model.path} takes {' and '.join(model.kinds)} only"
        )
    verifier = _verifier(found)
    misfits = found.unnamed - found.readable[verifier] if verifier is not None and verifier in GUESSED else 0
    if found.bad:
        tell(f"{file}: bad rows left out: {found.bad}, the first: {found.first_bad}")
    if misfits:
        tell(f"{file}: {misfits} of {found.rows} rows are left out: verifier {verifier} cannot read their answers")
    if len(found.answers) == 1 and found.rows > 1:
        tell(
            f"{file}: every answer is {next(iter(found.answers))[:40]!r}, which teaches nothing else; take a file "
            "whose answers are not hidden"
        )
    for note, count in found.notes.most_common(TOLD):
        tell(f"{file}: {count} rows: {note}")
    share, sizes = found.share(MOST["problems"])
    name, stem = _name(file, taken), _stem(file)
    if stem in taken:
        field = "validation" if VALIDATION.search(Path(file).stem) else "test"
        tell(
            f"{file}: is a branch of its own, {name}, that learns; if its rows are for the {field} of {stem}, leave "
            f"the file out and write `{field}: {file}` into {stem}"
        )
    return Branch(name, found, verifier, found.bad + misfits, share, sizes, commit)


def _reads(verifier: str, answer: str) -> bool:
    return ungradable(FORM, verifier, answer) is None


def _verifier(found: Survey) -> str | None:
    """The verifier of rows that name none: one that reads all or nearly all of their answers; None if all name one."""
    if not found.unnamed:
        return None
    shares = {name: found.readable[name] / found.unnamed for name in GUESSED}
    best = best_guess(found)
    if shares[best] >= NEARLY_ALL:
        return best
    return "math" if found.formulas or any(shares.values()) else "exact"


def _name(file: str, taken: set[str]) -> str:
    """A free name for the branch of a file."""
    name = _stem(file)
    free = (each for each in (name, *(f"{name}_{i}" for i in range(2, 99))) if each not in taken | RESERVED_NAMES)
    return next(free)


def _stem(file: str) -> str:
    """A branch's name after its file's, or after its folder's or data set's if that is only train or test."""
    parts = [part for part in re.split(r"[/\\:]", file) if part]
    stems = [NO_NAME.sub("", part.partition(".")[0]) for part in parts]
    stem = next((stem for stem in reversed(stems) if re.search("[A-Za-z]", stem)), "rows")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:28] or "rows"
    return name if name[0].isalpha() and is_plain(name) else f"rows_{name}"
