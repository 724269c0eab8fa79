"""Where a model comes from and what it computes on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from copd.errors import ModelFolderError
from copd.files import sha256

BUILTIN = "builtin:"
CHECKSUMS = "SHA256SUMS"


def model_folder(path: str, given_as: str = "model.path") -> Path:
    """The folder of a model; `builtin:NAME` is a base that ships with copd, checked against its sha256 sums.

    Raises ModelFolderError, naming the field or argument `given_as`, for an unknown name, a missing folder, or a
    builtin file that is damaged.
    """
    if not path.startswith(BUILTIN):
        if not Path(path).is_dir():
            raise ModelFolderError(
                f"{given_as}: no folder {path!r}; give a folder, or one of {', '.join(builtin_models())}"
            )
        return Path(path)
    folder = Path(str(files("copd"))) / "assets" / path.removeprefix(BUILTIN)
    if path not in builtin_models():
        raise ModelFolderError(f"{given_as}: no builtin model {path!r}; there is {', '.join(builtin_models())}")
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split(maxsplit=1)
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelFolderError(f"{folder / name}: missing or damaged; reinstall copd")
    return folder


def builtin_models() -> list[str]:
    """Paths of the models that ship with copd."""
    assets = Path(str(files("copd"))) / "assets"
    return sorted(BUILTIN + folder.name for folder in assets.iterdir() if (folder / CHECKSUMS).is_file())


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` over the files of a model folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def compute_on(device: str, dtype: str) -> tuple[torch.device, torch.dtype | None]:
    """The device, and the type of autocast or None for plain float32.

    "auto" takes cuda, else mps, else cpu; and bfloat16 on cuda, else float32. Raises ModelFolderError for a device that
    this machine lacks.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(d for d, there in available.items() if there) if device == "auto" else device
    if not available[name]:
        there = ", ".join(d for d, present in available.items() if present)
        raise ModelFolderError(f"model.device: {name!r} is not available here; there is {there}")
    half = dtype == "bfloat16" or (dtype == "auto" and name == "cuda")
    return torch.device(name), torch.bfloat16 if half else None
