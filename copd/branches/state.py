"""A branch's part of a checkpoint: one file of tensors, which the branch itself writes and reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from copd.errors import CheckpointError
from copd.system.files import flush, sha256
from copd.types import StateFile


def write_state(tensors: Mapping[str, Tensor], path: Path) -> StateFile | None:
    """Write tensors into a file and flush it to disk. None, and no file, if a value is not finite.

    Raises CheckpointError naming a file that cannot be written.
    """
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        return None
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
        flush(path)
        return StateFile(path.name, path.stat().st_size, sha256(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises CheckpointError naming a file that cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
