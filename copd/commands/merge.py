"""`copd merge`: merge model folders, and search for the merge with the best validation accuracy."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from copd.assemble.assembled import assembled
from copd.branches.local import finish, local_handle
from copd.commands.export import folders_of
from copd.errors import RecipeError
from copd.measure.evaluate import AVERAGE, Accuracy, evaluate
from copd.model.folders import EXPORTED, model_folder
from copd.model.merging import MergedFolders, write_merged
from copd.model.stored import ModelFolder
from copd.recipe.fields import is_code
from copd.recipe.method_sections import MergeSection
from copd.recipe.model import Recipe
from copd.recipe.publish import bare, model_name
from copd.runs.cards import MERGE_CARD
from copd.runs.folder import occupied
from copd.system.own_code import load_named
from copd.types import Split

logger = logging.getLogger(__name__)


def merge_models(
    branches: Sequence[str],
    base: str | None,
    candidates: Sequence[MergeSection],
    out: Path,
    recipe: Recipe | None,
    export_dtype: str | None = None,
) -> tuple[MergeSection, list[Accuracy]]:
    """Merge models into `out`. Of several candidates of one method, the one with the best validation accuracy is taken.

    Branches and base are given in a form that `folders_of` takes. The merge is cast to `export_dtype`, by default to
    the branches' type. Returns the chosen candidate and the accuracy of
    all candidates (none without a recipe). Only one model is in memory, and without a recipe only one tensor of each
    model. With a recipe, the disk holds one candidate at a time beside `out`. Models or settings that do not match
    raise RecipeError, ModelFolderError or MergeError before anything is written. After an error nothing is left.
    """
    if export_dtype not in (None, *EXPORTED):
        raise RecipeError(f"--export-dtype: found {export_dtype!r}; accepted: {', '.join(EXPORTED)}")
    dtype = None if export_dtype is None else EXPORTED[export_dtype]
    if occupied(out):
        raise RecipeError(f"--out {out}: is not empty; give another folder")
    given = {**dict.fromkeys(branches, "BRANCHES"), **({} if base is None else {base: "--base"})}
    with folders_of(given) as places:
        models = {path: ModelFolder(model_folder(place), path) for path, place in places.items()}
        start = None if base is None else models[base]
        return _merged([models[path] for path in branches], start, candidates, out, recipe, dtype)


def _merged(
    branches: Sequence[ModelFolder],
    base: ModelFolder | None,
    candidates: Sequence[MergeSection],
    out: Path,
    recipe: Recipe | None,
    dtype: torch.dtype | None,
) -> tuple[MergeSection, list[Accuracy]]:
    """`merge_models` for models that are there."""
    named = candidates[0].method
    method = load_named(named, "--method") if is_code(named) else named
    merge = MergedFolders(branches, base, method, candidates[0].settings)
    merges = [merge.with_settings(section.settings) for section in candidates]
    labels = [described_merge(each) for each in candidates]
    table = [] if recipe is None else _scan(recipe, merges, labels, out, dtype)
    averages = [cell.greedy.value for cell in table if cell.capability == AVERAGE] or [0.0]
    best = averages.index(max(averages))
    chosen = candidates[best]
    choice = f" Chosen among {len(candidates)} on validation problems, average accuracy {max(averages):.1%}."
    card = MERGE_CARD.format(
        loader=branches[0].loader,
        count=len(branches),
        how=described_merge(chosen).replace(named, bare(named)),
        branches=", ".join(f"`{model_name(branch.label)}`" for branch in branches),
        base=f"`{model_name(base.label)}`" if base else "not given",
        choice=choice if table else "",
    )
    write_merged(merges[best], out, card, dtype=dtype)
    return chosen, table


def described_merge(section: MergeSection) -> str:
    """A merge and its settings in words."""
    chosen = {name: value for name, value in section.settings.items() if value is not None}
    shown = {n: " ".join(f"{x:.3g}" for x in v) if isinstance(v, tuple) else f"{v:.3g}" for n, v in chosen.items()}
    return ", ".join([section.method, *(f"{name} {value}" for name, value in shown.items())])


def _scan(
    recipe: Recipe, merges: Sequence[MergedFolders], labels: Sequence[str], out: Path, dtype: torch.dtype | None
) -> list[Accuracy]:
    """Greedy accuracy of merges on the recipe's validation problems.

    Each merge is written to a folder beside `out`, loaded like any other model, and removed before the next is written.
    """
    table = []
    pairs, quiet = list(zip(labels, merges, strict=True)), not Console().is_terminal
    trial = out.resolve().with_name(f".{out.name}.trial")
    with assembled(recipe, logger.warning) as made:
        count = made.evaluation.validation_problems
        for label, merged in track(pairs, f"{len(pairs)} merges", transient=True, disable=quiet):
            shutil.rmtree(trial, ignore_errors=True)
            try:
                write_merged(merged, trial, "", dtype=dtype)
                model = local_handle(made.actor(label, made.model(str(trial), label)))
                table += finish(evaluate([model], list(made.tasks), Split.VALIDATION, problems=count, pass_at=()))
                del model  # the next one takes its place in memory
            finally:
                shutil.rmtree(trial, ignore_errors=True)
    return table
