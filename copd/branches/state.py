"""A branch's part of a checkpoint, which the branch itself writes and reads: a file of tensors.

If the branch has several ranks, weights and moments are in a folder beside the file, in the form of
torch.distributed.checkpoint: any number of ranks reads what another number wrote. All files are safetensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, load, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from copd.compute.ranks import Ranks
from copd.errors import CheckpointError, wrong_in
from copd.system.files import flush, sha256
from copd.types import StateFile


def write_shards(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> list[StateFile] | None:
    """Write tensors that are spread over ranks into a new folder, each rank its parts into a file of its own.

    None, and no folder, if a value is not finite; no file if there are no tensors. Raises CheckpointError naming a
    folder that cannot be written.
    """
    if not tensors:
        return []
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors.values()]
    if not all(ranks.gathered(all(bool(part.isfinite().all()) for part in local))):
        return None
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        paths = sorted(folder.glob("*.safetensors"))
        own = [paths[place] for place in ranks.share(len(paths))]
        files = [_complete(path, f"{folder.name}/{path.name}") for path in own]
        flush(folder)
    except (OSError, CheckpointException) as error:
        raise CheckpointError(f"{folder}: cannot be written: {_reason(error)}") from error
    return [file for each in ranks.gathered(files) for file in each]


def read_shards(folder: Path, blank: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder that any number of ranks wrote, each in what `blank` makes for its name.

    Nothing is there if there is no folder. Raises CheckpointError naming a folder that cannot be read or does not fit.
    """
    if not folder.is_dir():
        return {}
    try:
        reader = HuggingFaceStorageReader(str(folder))
        tensors = {name: blank(name) for name in reader.read_metadata().state_dict_metadata}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(tensors, storage_reader=reader)
    except (OSError, SafetensorError, KeyError, CheckpointException) as error:
        raise CheckpointError(f"{folder}: cannot be read: {_reason(error)}") from error
    return tensors


def write_state(tensors: Mapping[str, Tensor], path: Path) -> StateFile | None:
    """Write tensors into a file and flush it to disk. None, and no file, if a value is not finite.

    Raises CheckpointError naming a file that cannot be written.
    """
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        return None
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
        return _complete(path, path.name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises CheckpointError naming a file that cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _complete(path: Path, name: str) -> StateFile:
    """A written file, flushed to disk, as a checkpoint knows it by this name."""
    flush(path)
    return StateFile(name, path.stat().st_size, sha256(path))


def _reason(error: BaseException) -> str:
    """Why torch.distributed.checkpoint has failed: the error of the first rank that had one."""
    if isinstance(error, CheckpointException):
        return _reason(next(iter(error.failures.values()))[0])
    return wrong_in(error) if isinstance(error, Exception) else type(error).__name__
