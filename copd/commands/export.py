"""`copd export`: models of a checkpoint as folders, for people and for commands that take models."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import torch

from copd.assemble.assembled import load_policy
from copd.assemble.plan import make_plan
from copd.commands.cards import Cards, Made
from copd.errors import CheckpointError, ModelFolderError, RecipeError, RunFolderError, WriteError
from copd.maths.merge import OwnMerge, needs_base
from copd.model.folders import loader_of, model_folder, sums_of
from copd.model.lora import LoraSettings
from copd.model.merging import merge_weights
from copd.model.policy import Policy
from copd.model.stored import StateTensors, StoredTensors, write_folder
from copd.recipe.fields import is_code
from copd.recipe.method_sections import MergeSection
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.runs.folder import occupied
from copd.runs.saved import (
    BEST,
    BRANCHES,
    LAST,
    STEP,
    Reference,
    checkpoint_of,
    manifest_of,
    recipe_of,
    reference_of,
    run_of,
)
from copd.system.files import passing_folder
from copd.system.own_code import find_code, loaded
from copd.types import MERGED

EXPORTS = "exports"
"""The folder of a run folder that `copd export` writes to unless another is given."""


class Exported(NamedTuple):
    """The folders of the models of a checkpoint, and why the run's product is not among them."""

    folders: list[Path]
    left_out: str | None


def export(
    run: Path, step: str = LAST, out: Path | None = None, tell: Callable[[str], None] = lambda what: None
) -> Exported:
    """Write the models of a run's checkpoint: `branches/NAME/` and `merged/`, as the run itself does at its end.

    `step` is a number of steps, last or best. The folder is `RUN/exports/step-N` unless `out` is given; it is there
    whole or not at all. The run may still train.
    `tell` is told what is being done. Raises RunFolderError, CheckpointError, RecipeError, ModelFolderError, MergeError
    or WriteError.
    """
    if not re.fullmatch(STEP, step):
        raise RecipeError(f"--step: found {step!r}; accepted: a number of steps, {LAST} or {BEST}")
    tell(f"{run}: loading the base")
    saved = SavedModels(run, step)
    folder = out or run / EXPORTS / saved.checkpoint.folder.name
    given_as = f"--out {folder}"
    if occupied(folder):
        raise RecipeError(f"{given_as}: is not empty; give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with passing_folder(folder.parent, given_as) as work:
            new = work / folder.name
            new.mkdir()
            saved.write(saved.models, new, saved.recipe.model.export_dtype, tell)
            new.rename(folder)
    except OSError as error:
        raise WriteError(f"{given_as}: cannot be written: {error.strerror or error}") from error
    return Exported([folder / place_of(name) for name in saved.models], saved.without_product)


@contextmanager
def folders_of(models: Mapping[str, str], tell: Callable[[str], None] = lambda what: None) -> Iterator[dict[str, str]]:
    """The folder of each model by the words that name it; `models` says as which argument each was given.

    A model of a checkpoint (RUN@STEP, RUN/branches/NAME@STEP) has one within the block only, with weights in float32,
    where the system keeps temporary files. Other models have it where they are.
    `tell` is told what is being done. Raises ModelFolderError for a model that is not there, and what `export` raises.
    """
    with ExitStack() as passing:
        found = {}
        for model, given_as in models.items():
            reference = reference_of(model)
            if reference is None:
                _check_no_run(model, given_as)
                model_folder(model, given_as)
                found[model] = model
            else:
                folder = passing.enter_context(passing_folder(Path(gettempdir())))
                found[model] = str(_written(reference, folder, tell))
        yield found


def _check_no_run(model: str, given_as: str) -> None:
    folder, at, step = model.rpartition("@")
    if at and not Path(model).is_dir() and Path(folder).is_dir() and run_of(folder) is not None:
        raise ModelFolderError(
            f"{given_as}: {folder} has no checkpoint {step!r}; accepted behind @: a number of steps, {LAST} or {BEST}"
        )
    if manifest_of(Path(model)).get("recipe") and not (Path(model) / "config.json").is_file():
        there = [f"{model}/{place}" for place in (MERGED, f"{BRANCHES}/NAME")]
        made = [f for f in (Path(model) / MERGED, *sorted((Path(model) / BRANCHES).glob("*"))) if f.is_dir()]
        what, places = ("a run, not its model", made) if len(made) == 1 else ("a run of several models", there)
        raise ModelFolderError(
            f"{given_as}: {model} is {what}; give {' or '.join(map(str, places))}, and of "
            f"a checkpoint {model}@STEP for its product or {model}/{BRANCHES}/NAME@STEP"
        )


def _written(reference: Reference, out: Path, tell: Callable[[str], None]) -> Path:
    tell(f"{reference.run}: loading the base")
    saved = SavedModels(reference.run, reference.step)
    name = reference.branch or saved.plan.product
    at = f"{reference.run}@{reference.step}"
    branches = f"{reference.run}/{BRANCHES}/NAME@{reference.step}, where NAME is {', '.join(saved.branches)}"
    if name is None:
        raise RunFolderError(f"{at}: method {saved.recipe.method} makes no single model; give {branches}")
    if name not in saved.models or (reference.branch and name == MERGED):
        why = saved.without_product if name == saved.plan.product else None
        raise RunFolderError(f"{at}: {why or f'has no branch {name!r}'}; give {branches}")
    saved.write([name], out, "float32", tell)
    return out / place_of(name)


def place_of(name: str) -> Path:
    """Where a run's folder holds a model: the merge, or a student that takes its place, beside the branches."""
    return Path(MERGED) if name == MERGED else Path(BRANCHES) / name


class SavedModels:
    """The models of a checkpoint, on the CPU in float32. One branch at a time is in memory, beside the base.

    `branches` are those that have weights of their own at this step: a student that no branch has taught yet has none.
    """

    def __init__(self, run: Path, step: str) -> None:
        self.recipe = load_recipe(recipe_of(run))
        self.plan = make_plan(self.recipe)
        self._run, self._code_sha256 = run, manifest_of(run).get("code_sha256") or {}
        self.checkpoint = checkpoint_of(run, step, self.plan.product)
        if manifest_of(run).get("base_sha256") != base_sums(self.recipe):
            raise CheckpointError(
                f"{run}: the base {self.recipe.model.path} is not the one that the run began with, and the models of a "
                "checkpoint need it; give it back its files"
            )
        family = self._own(self.recipe.model.family, "model.family") if self.recipe.model.family else None
        self.base = load_policy(self.recipe, home=(torch.device("cpu"), None), family=family)
        begun = self.plan.schedule.updates_before(self.checkpoint.step) < self.checkpoint.step
        waiting = {self.plan.student} - set(self.plan.learners) if not begun else set()
        self.branches = tuple(name for name in self.checkpoint.branches if name not in waiting)

    def _own(self, source: str, field: str) -> Any:
        """The user's code that a field names, as the run had it. Raises RecipeError or CheckpointError."""
        code = find_code(source, field)
        if self._code_sha256.get(source, code.sha256) != code.sha256:
            raise CheckpointError(
                f"{self._run}: {field}: {code.path} is not the file that the run began with; give it back its content"
            )
        return loaded(code, field)

    @property
    def models(self) -> tuple[str, ...]:
        """The branches, and the merge where it is computed from their weights."""
        return (*self.branches, *([MERGED] if self.plan.merges else []))

    @property
    def without_product(self) -> str | None:
        """Why the product of the run is not among the models; None if it is, or if the method makes none."""
        product, steps = self.plan.product, self.checkpoint.step
        if product is None or product in self.models:
            return None
        return f"{product} is a student that the branches have not taught yet after {steps} steps"

    def write(self, names: Collection[str], out: Path, export_dtype: str, tell: Callable[[str], None]) -> None:
        """Write these models into their places in a folder. Raises MergeError if the branches do not merge."""
        at = f"step {self.checkpoint.step}"
        merges = self.plan.merges and MERGED in names
        with passing_folder(out) as work:
            parts = {name: work / name for name in self.branches if merges}
            for name in self.branches:
                if name in names or merges:
                    tell(f"{at}: branch {name}")
                    policy = self._branch(name)
                    if name in names:
                        self._save(policy, name, out, export_dtype)
                    if merges:
                        write_folder(policy.weights(), parts[name])
            if merges:
                tell(f"{at}: merging {len(parts)} branches")
                section = self.recipe.merge
                own = self._own(section.method, "merge.method") if is_code(section.method) else None
                merge_by_section(own or section.method, section, self.base, parts, work / MERGED)
                policy = self.base.clone()
                policy.load_weights(StoredTensors(work / MERGED, MERGED))
                self._save(policy, MERGED, out, export_dtype)

    @torch.no_grad()
    def _branch(self, name: str) -> Policy:
        """The branch with its weights at the checkpoint; what it does not train is the base's."""
        lora = self.recipe.lora
        if lora is None:
            policy = self.base.clone()
        else:
            policy = self.base.with_adapter(name, LoraSettings(**lora.model_dump()), seed=0)
        weights = StateTensors(self.checkpoint.part(name), "weight/")
        for where, parameter in policy.trained_parameters().items():
            if where not in weights:
                raise CheckpointError(f"{self.checkpoint.folder}: branch {name}: tensor {where!r} is missing")
            parameter.copy_(weights[where])
        return policy

    def _save(self, policy: Policy, name: str, out: Path, export_dtype: str) -> None:
        rollouts = sum(counts["rollouts"] for counts in self.checkpoint.notes["counts"].values())
        place = out / place_of(name)
        home = model_folder(self.recipe.model.path, revision=self.recipe.model.revision)
        cards = Cards(self.recipe, self.plan, loader_of(policy.model.config), home)
        policy.save(place, "", export_dtype)
        cards.write(place, name, made=Made(self.checkpoint.step, rollouts))


def merge_by_section(
    method: str | OwnMerge, section: MergeSection, base: Policy, parts: Mapping[str, Path], out: Path
) -> None:
    """Write the merge of branches' weights by a method, a user's own too, and a section. Raises MergeError."""
    start = base.weights() if needs_base(method) else None
    merge_weights(parts, out, method, section.settings, start)


def base_sums(recipe: Recipe) -> dict[str, str]:
    """The sha256 of each file of the base by its name."""
    return sums_of(model_folder(recipe.model.path, revision=recipe.model.revision))
