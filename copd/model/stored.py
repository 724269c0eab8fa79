"""The tensors of a folder, read and written one at a time; the settings of a model folder, without the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from copd.compute.family import tokenizer_of
from copd.errors import CheckpointError, ModelFolderError, WriteError, first_line, wrong_in
from copd.maths.merge import Weights, layout_of
from copd.model.folders import load_processor, loader_of, read_config
from copd.model.vocabulary import Speaker, banned_tokens, end_tokens
from copd.system.files import with_usual_modes

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
SHARD_BYTES = 2_000_000_000
"""Most bytes of a file that is written, unless one tensor is larger."""


@dataclass(eq=False)
class _Speaker:
    processor: Any
    banned_V: Tensor
    end_ids: Tensor


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a folder of safetensors by name. Each is read when it is asked for.

    `layout` holds the same names with tensors that have a shape and a type but no values. Raises ModelFolderError,
    naming folder, file or tensor, for anything missing or damaged, and for a tensor of a type that cannot be merged.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.file_of = self._files()
        self.layout = self._layout()
        self.stored = {name: name for name in self.layout}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.layout:
            raise KeyError(name)
        with self._opened(self.file_of[self.stored[name]]) as file:
            return file.get_tensor(self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

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
            raise ModelFolderError(
                f"{self.label}: {index.name} is not an index of tensors: {wrong_in(error)}"
            ) from error
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

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        """A file of tensors, opened for one tensor only: a file that stays open keeps all it has read in memory."""
        try:
            with safe_open(path, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise ModelFolderError(f"{self.label}: {path.name} cannot be read: {error}") from error


class StateTensors(Mapping[str, Tensor]):
    """The tensors of a branch's part of a checkpoint whose names begin with `prefix`, by the rest of their names.

    Each is read when it is asked for. Raises CheckpointError naming a file that cannot be read.
    """

    def __init__(self, path: Path, prefix: str) -> None:
        self.path, self.prefix = path, prefix
        with self._opened() as file:
            names: list[str] = file.keys()
        self.names = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        with self._opened() as file:
            return file.get_tensor(f"{self.prefix}{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error


class ModelFolder(StoredTensors):
    """The tensors of a model folder, tied ones once, and the model's settings.

    Raises ModelFolderError for what is no model folder.
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
        super().__init__(path, label)
        if self.tied and HEAD in self.layout:
            self._drop_the_copy()

    def take_names_of_the_model(self) -> None:
        """From now on name each tensor as the loaded model does: versions of transformers store some under other names.

        A name that the model does not have stays.
        """
        model = self._without_weights()
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

    def processor(self) -> Any:
        """The folder's processor; for a model of text only, its tokenizer. It is loaded at every call."""
        try:
            return load_processor(self.path, self.loader)
        except Exception as error:
            reason = first_line(error)
            raise ModelFolderError(f"{self.label}: the tokenizer or processor cannot be loaded: {reason}") from error

    def speaker(self) -> Speaker:
        """The folder's processor, vocabulary mask and end tokens, as a policy has them. They are read at every call."""
        model, processor = self._without_weights(), self.processor()
        if (self.path / GENERATION_CONFIG_NAME).is_file():
            try:
                model.generation_config = GenerationConfig.from_pretrained(self.path)
            except Exception as error:
                reason = first_line(error)
                raise ModelFolderError(f"{self.label}: {GENERATION_CONFIG_NAME} cannot be read: {reason}") from error
        ends = end_tokens(model, processor)
        return _Speaker(processor, banned_tokens(model, tokenizer_of(processor), ends), ends)

    def _without_weights(self) -> Any:
        """The model of the configuration, whose tensors have no values."""
        try:
            with torch.device("meta"):
                return self.loader.auto_class.from_config(self.config, trust_remote_code=False)
        except Exception as error:
            reason = first_line(error)
            raise ModelFolderError(f"{self.label}: config.json is not that of a model: {reason}") from error

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


def write_folder(tensors: Weights, folder: Path) -> None:
    """Write tensors into a new folder. Raises WriteError if it is there already or cannot be written."""
    try:
        folder.mkdir()
        write_tensors(tensors, folder)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{folder}: the weights cannot be written: {error}") from error


def write_tensors(
    tensors: Weights, folder: Path, shard_bytes: int = SHARD_BYTES, dtype: torch.dtype | None = None
) -> None:
    """Write tensors into a folder, in `dtype` or each in its own type, in files of at most `shard_bytes`.

    `StoredTensors` reads them. Only the tensors of one file are asked for at a time. Raises OSError or SafetensorError.
    """
    plan = split_state_dict_into_shards_factory(
        {name: tensor.to(dtype=dtype) for name, tensor in layout_of(tensors).items()},
        get_storage_size=lambda tensor: tensor.numel() * tensor.element_size(),
        filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."),
        max_shard_size=shard_bytes,
    )
    for file, names in plan.filename_to_tensors.items():
        own = {name: tensors[name].to(dtype=dtype).contiguous() for name in names}
        save_file(own, folder / file, metadata={"format": "pt"})
    with_usual_modes(folder)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")
