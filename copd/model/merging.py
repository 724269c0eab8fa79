"""Model folders merged tensor by tensor.

Only one tensor of each model and one output file are in memory at a time, however large the models are.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from copd.errors import MergeError, ModelFolderError, WriteError, first_line
from copd.maths.merge import NEED_BASE, Merged
from copd.model.folders import load_processor, loader_of, read_config
from copd.model.vocabulary import PROMPTS, TOKENIZER, first_difference
from copd.system.files import with_usual_modes

SHARD_BYTES = 2_000_000_000
"""Most bytes of an output file, unless one tensor is larger."""
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}


class ModelFolder(Mapping[str, Tensor]):
    """The tensors of a folder of safetensors by name, tied ones once. Each is read when it is asked for.

    `layout` holds the same names with tensors that have a shape and a type but no values. Raises ModelFolderError,
    naming folder, file or tensor, for anything missing or damaged, and for a tensor of a type that cannot be merged.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        if not (path / "config.json").is_file():
            adapter = " but a LoRA adapter: merge it into its base first" * (path / "adapter_config.json").is_file()
            raise ModelFolderError(f"{label}: no model here{adapter} (config.json is missing)")
        try:
            config = read_config(path)
        except Exception as error:
            raise ModelFolderError(f"{label}: config.json cannot be read: {first_line(error)}") from error
        self.config, self.loader = config, loader_of(config)
        self.tied = bool(getattr(config, "tie_word_embeddings", False))
        self.file_of = self._files()
        self.layout = self._layout()
        self.stored = {name: name for name in self.layout}
        if self.tied and HEAD in self.layout:
            self._drop_the_copy()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.layout:
            raise KeyError(name)
        with self._opened(self.file_of[self.stored[name]]) as file:
            return file.get_tensor(self.stored[name])

    def take_names_of_the_model(self) -> None:
        """From now on name each tensor as the loaded model does: versions of transformers store some under other names.

        A name that the model does not have stays.
        """
        try:
            with torch.device("meta"):
                model = self.loader.auto_class.from_config(self.config, trust_remote_code=False)
        except Exception as error:
            reason = first_line(error)
            raise ModelFolderError(f"{self.label}: config.json is not that of a model: {reason}") from error
        renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
        there = model.state_dict()
        known = {
            name: rename_source_key(name, renamings, [], model.base_model_prefix, there)[0] for name in self.layout
        }
        named = {name: known[name] if known[name] in there else name for name in self.layout}
        if len(set(named.values())) < len(named):
            raise ModelFolderError(f"{self.label}: two of its tensors are one tensor of the model")
        self.stored = {named[name]: self.stored[name] for name in self.layout}
        self.layout = {named[name]: tensor for name, tensor in self.layout.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    def processor(self) -> Any:
        """The folder's processor; for a model of text only, its tokenizer. It is loaded at every call."""
        try:
            return load_processor(self.path, self.loader)
        except Exception as error:
            reason = first_line(error)
            raise ModelFolderError(f"{self.label}: the tokenizer or processor cannot be loaded: {reason}") from error

    def _files(self) -> dict[str, Path]:
        """The file of each tensor."""
        single, index = self.path / SAFE_WEIGHTS_NAME, self.path / SAFE_WEIGHTS_INDEX_NAME
        if single.is_file():
            with self._opened(single) as file:
                return dict.fromkeys(file.keys(), single)
        if not index.is_file():
            raise ModelFolderError(f"{self.label}: neither {single.name} nor {index.name} is there; no other is read")
        try:
            names: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            strangers = [file for file in names.values() if Path(file).name != file]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFolderError(f"{self.label}: {index.name} is not an index of tensors: {error!r}") from error
        if strangers:
            raise ModelFolderError(f"{self.label}: {index.name} names {strangers[0]!r}, which is not in the folder")
        return {name: self.path / file for name, file in names.items()}

    def _layout(self) -> dict[str, Tensor]:
        found = {}
        for path in dict.fromkeys(self.file_of.values()):
            with self._opened(path) as file:
                for name in (name for name, owner in self.file_of.items() if owner == path):
                    part = file.get_slice(name)
                    if part.get_dtype() not in TYPES:
                        raise ModelFolderError(
                            f"{self.label}: {name!r} is stored as {part.get_dtype()}; accepted: {', '.join(TYPES)}"
                        )
                    found[name] = torch.empty(part.get_shape(), dtype=TYPES[part.get_dtype()], device="meta")
        return found

    def _drop_the_copy(self) -> None:
        """Leave out a tied output head that was stored. It is a copy of the embeddings, which are merged once."""
        twin = next((name for name in self.layout if name.endswith(EMBEDDING)), None)
        if twin is None:
            raise ModelFolderError(
                f"{self.label}: {HEAD!r} is tied by config.json, but no tensor ends in {EMBEDDING!r}"
            )
        if not torch.equal(self[HEAD], self[twin]):
            raise ModelFolderError(f"{self.label}: {HEAD!r} is tied by config.json, but is not equal to {twin!r}")
        del self.layout[HEAD]

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        """A file of tensors, opened for one tensor only: a file that stays open keeps all it has read in memory."""
        try:
            with safe_open(path, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise ModelFolderError(f"{self.label}: {path.name} cannot be read: {error}") from error


class MergedFolders(Merged):
    """The merge of model folders by name: `Merged`, one tensor of each folder in memory at a time.

    Raises MergeError for models that `Merged` refuses. Raises MergeError, naming the folders and the first difference,
    if folders differ in tied weights or tokenizer, or branches in chat template or picture processor.
    """

    def __init__(
        self, branches: Sequence[ModelFolder], base: ModelFolder | None, method: str, settings: Mapping[str, Any]
    ) -> None:
        if method in NEED_BASE and base is None:
            raise MergeError(f"--base: missing; method {method!r} needs the base that the branches started from")
        start = None if base is None else (base.label, base)
        folders = [*branches, *([] if base is None else [base])]
        _check_ties(folders)
        if any(folder.layout.keys() != folders[0].layout.keys() for folder in folders):
            for folder in folders:
                folder.take_names_of_the_model()
        with _as_merge_error():
            super().__init__([(folder.label, folder) for folder in branches], start, method, settings)
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


@contextmanager
def _as_merge_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise MergeError(str(error)) from error


def write_merged(merged: MergedFolders, out: Path, card: str, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a merge as a model folder: safetensors in files of at most `shard_bytes`, and a model card.

    Configuration, tokenizer and processor are copied from the first branch, whose generation config holds the
    vocabulary mask. The folder is written under another name and renamed once it is complete. Raises whatever reading
    raises, and WriteError if the folder cannot be written or `out` is not empty.
    """
    out = out.resolve()
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_weights(merged, temporary, shard_bytes)
        for path in merged.first.path.iterdir():
            if path.is_file() and _is_copied(path.name):
                shutil.copyfile(path, temporary / path.name)
        _set_type(merged, temporary / "config.json")
        (temporary / "README.md").write_text(card, encoding="utf-8")
        temporary.rename(out)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{out}: the merge cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_weights(merged: MergedFolders, folder: Path, shard_bytes: int) -> None:
    plan = split_state_dict_into_shards_factory(
        dict(merged.layout),
        get_storage_size=lambda tensor: tensor.numel() * tensor.element_size(),
        filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."),
        max_shard_size=shard_bytes,
    )
    for file, names in plan.filename_to_tensors.items():
        save_file({name: merged[name] for name in names}, folder / file, metadata={"format": "pt"})
    with_usual_modes(folder)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _set_type(merged: MergedFolders, config: Path) -> None:
    """Let the configuration name the type of the weights where branches of several types were merged."""
    own = merged.first.layout
    wider = next((merged.layout[name].dtype for name in own if merged.layout[name].dtype != own[name].dtype), None)
    if wider is None:
        return
    settings = json.loads(config.read_text(encoding="utf-8"))
    for section in (settings, *(part for part in settings.values() if isinstance(part, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = str(wider).removeprefix("torch.")
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _is_copied(name: str) -> bool:
    settings = Path(name).suffix in COPIED_SUFFIXES and name != SAFE_WEIGHTS_INDEX_NAME
    return settings or name.startswith(("LICENSE", "NOTICE"))


def _check_ties(folders: Sequence[ModelFolder]) -> None:
    first, *others = folders
    for other in others:
        if other.tied != first.tied:
            tied, apart = (other, first) if other.tied else (first, other)
            raise MergeError(f"{HEAD!r} is tied to the embeddings in {tied.label} and not in {apart.label}")


def _check_one_vocabulary(branches: Sequence[ModelFolder], base: ModelFolder | None) -> None:
    """Check that all have one tokenizer. Branches also need one chat template and picture processor, for prompts."""
    first, own = branches[0], branches[0].processor()
    for other in [*branches[1:], *([] if base is None else [base])]:
        views = TOKENIZER if other is base else TOKENIZER | PROMPTS
        if difference := first_difference(own, other.processor(), views, (first.label, other.label)):
            raise MergeError(difference)
