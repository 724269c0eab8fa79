"""Model folders merged tensor by tensor.

Only one tensor of each model and one output file are in memory at a time, however large the models are.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from copd.errors import MergeError, WriteError
from copd.maths.merge import NEED_BASE, Merged, OwnMerge, Weights
from copd.model.differences import differences, shown
from copd.model.folders import name_type
from copd.model.stored import HEAD, SHARD_BYTES, ModelFolder, StoredTensors, write_folder, write_tensors
from copd.model.vocabulary import TOKENIZER, difference_of_vocabulary, first_difference

BOOKKEEPING = (
    *(
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
        "initializer_range",
        "problem_type",
    ),
    *("return_dict", "output_attentions", "output_hidden_states", "id2label", "label2id"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Fields of config.json that do not decide what weights compute. End tokens are compared with the vocabulary."""
COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}


class MergedFolders(Merged):
    """The merge of model folders by name: `Merged`, one tensor of each folder in memory at a time.

    Raises MergeError for models that `Merged` refuses, and for one folder given as two branches. Raises MergeError,
    naming the folders and the first difference, if folders differ in tied weights or tokenizer, or branches in
    configuration, end tokens, vocabulary mask, chat template or picture processor.
    """

    def __init__(
        self,
        branches: Sequence[ModelFolder],
        base: ModelFolder | None,
        method: str | OwnMerge,
        settings: Mapping[str, Any],
    ) -> None:
        if method in NEED_BASE and base is None:
            raise MergeError(f"--base: missing; method {method!r} needs the base that the branches started from")
        start = None if base is None else (base.label, base)
        folders = [*branches, *([] if base is None else [base])]
        _check_apart(branches)
        _check_ties(folders)
        if any(folder.layout.keys() != folders[0].layout.keys() for folder in folders):
            for folder in folders:
                folder.take_names_of_the_model()
        with _as_merge_error():
            super().__init__([(folder.label, folder) for folder in branches], start, method, settings)
        _check_one_configuration(branches)
        _check_one_vocabulary(branches, base)
        self.first = branches[0]
        """The folder that gives the merge its configuration, tokenizer and processor."""

    def with_settings(self, settings: Mapping[str, Any]) -> MergedFolders:
        """A merge of the same folders by the same method, with other settings."""
        twin = copy.copy(self)
        twin.settings = dict(settings)
        return twin

    def __getitem__(self, name: str) -> Tensor:
        with _as_merge_error():
            return super().__getitem__(name)


def merge_weights(
    parts: Mapping[str, Path],
    out: Path,
    method: str | OwnMerge,
    settings: Mapping[str, Any],
    base: Weights | None = None,
) -> None:
    """Write the merge of branches' weights into a new folder. `parts` has the folder of each branch's weights by name.

    The branches of a run, whose weights these are, are of one model and need none of the checks of `MergedFolders`.
    Raises MergeError, naming tensor and branch, for what `Merged` refuses, and WriteError if `out` cannot be written.
    """
    with _as_merge_error("merge: "):
        branches = [(f"branch {name}", StoredTensors(path, str(path))) for name, path in parts.items()]
        write_folder(Merged(branches, None if base is None else ("base", base), method, settings), out)


def pass_on_weights(parts: Mapping[str, Path], out: Path, *, of: str) -> None:
    """Write the weights of branch `of` alone into a new folder, in the place of a merge."""
    write_folder(StoredTensors(parts[of], str(parts[of])), out)


@contextmanager
def _as_merge_error(where: str = "") -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise MergeError(f"{where}{error}") from error


def write_merged(
    merged: MergedFolders, out: Path, card: str, *, shard_bytes: int = SHARD_BYTES, dtype: torch.dtype | None = None
) -> None:
    """Write a merge as a model folder: safetensors in files of at most `shard_bytes`, and a model card.

    Its weights are in `dtype`, or each in that of the branches. Configuration, tokenizer and processor are copied from
    the first branch, whose generation config holds the vocabulary mask. The folder is written under another name and
    renamed once it is complete. Raises whatever reading raises, and WriteError if the folder cannot be written or `out`
    is not empty.
    """
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_tensors(merged, temporary, shard_bytes, dtype)
        for path in merged.first.path.iterdir():
            if path.is_file() and _is_copied(path.name):
                shutil.copyfile(path, temporary / path.name)
        if named := dtype or _wider(merged):
            name_type(temporary / "config.json", named)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        temporary.rename(out)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{out}: the merge cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _wider(merged: MergedFolders) -> torch.dtype | None:
    """The type of the weights that is not the first branch's own, where branches of several types were merged."""
    own = merged.first.layout
    return next((merged.layout[name].dtype for name in own if merged.layout[name].dtype != own[name].dtype), None)


def _is_copied(name: str) -> bool:
    settings = Path(name).suffix in COPIED_SUFFIXES and name != SAFE_WEIGHTS_INDEX_NAME
    return settings or name.startswith(("LICENSE", "NOTICE"))


def _check_apart(branches: Sequence[ModelFolder]) -> None:
    seen: dict[Path, str] = {}
    for branch in branches:
        folder = branch.path.resolve()
        if folder in seen:
            raise MergeError(
                f"BRANCHES: {seen[folder]} and {branch.label} are one folder; give each once, and its share by weights"
            )
        seen[folder] = branch.label


def _check_ties(folders: Sequence[ModelFolder]) -> None:
    first, *others = folders
    for other in others:
        if other.tied != first.tied:
            tied, apart = (other, first) if other.tied else (first, other)
            raise MergeError(f"{HEAD!r} is tied to the embeddings in {tied.label} and not in {apart.label}")


def _check_one_configuration(branches: Sequence[ModelFolder]) -> None:
    """Check that branches compute alike with equal weights. Configurations are compared as transformers reads them."""
    first, *others = branches
    for other in others:
        configs = (first.config.to_dict(), other.config.to_dict())
        for where, *found in differences(*configs):
            if not any(str(key) in BOOKKEEPING or str(key).startswith("_") for key in where):
                values = shown(*found)
                raise MergeError(
                    f"config.json: {'.'.join(map(str, where))} is {values[0]} in {first.label} and {values[1]} in "
                    f"{other.label}; branches of a merge must compute alike"
                )


def _check_one_vocabulary(branches: Sequence[ModelFolder], base: ModelFolder | None) -> None:
    """Check that all have one tokenizer. Branches also need one mask, and one way to make prompts."""
    first, *others = branches
    own = first.speaker()
    found = [difference_of_vocabulary(own, other.speaker(), (first.label, other.label)) for other in others]
    if base is not None:
        found.append(first_difference(own.processor, base.processor(), TOKENIZER, (first.label, base.label)))
    if difference := next(filter(None, found), None):
        raise MergeError(difference)
