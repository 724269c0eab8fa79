"""Small pictures and frames of sampled problems, kept beside the samples so that a report needs no task."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from copd.errors import WriteError
from copd.system.files import replace_bytes
from copd.types import Pixels, Problem

MEDIA = "media"
LONGEST_SIDE = 320
"""Pixels. Larger pictures are scaled down."""
MOST_PICTURES = 8
"""Most pictures, and most frames per video, kept of one problem. Of more, this many at equal distances are kept."""


def keep_media(folder: Path, problem: Problem) -> dict[str, Any]:
    """Write a problem's pictures and frames as PNG into `folder`/media, each once, named by its content.

    Returns paths relative to `folder`: a list "images", and a list "videos" with the kept frames of each video and the
    number of all its frames. Raises WriteError naming a file that cannot be written.
    """
    return {
        "images": [_keep(folder, image) for image in _spread(problem.images)],
        "videos": [
            {"frames": [_keep(folder, frame) for frame in _spread(np.asarray(video))], "frames_in_all": video.shape[0]}
            for video in problem.videos[:MOST_PICTURES]
        ],
    }


def kept_pictures(folder: Path, paths: Sequence[str]) -> list[np.ndarray]:
    """Pictures and frames that `keep_media` wrote, by their paths relative to `folder`. [height, width, 3] uint8 each.

    Raises WriteError naming one that cannot be read again.
    """
    found = []
    for path in paths:
        try:
            with Image.open(folder / path) as picture:
                found.append(np.asarray(picture.convert("RGB")))
        except OSError as error:
            raise WriteError(f"{folder / path}: was written and cannot be read: {error}") from error
    return found


def _spread(items: Sequence[np.ndarray | Pixels] | np.ndarray) -> list[np.ndarray]:
    """All items, or `MOST_PICTURES` of them at equal distances, including the first and the last."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST_PICTURES)).round().astype(int))
    return [np.asarray(items[i]) for i in chosen]


def _keep(folder: Path, picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return _write(folder, image)


def write_picture(folder: Path, picture: np.ndarray | Pixels) -> str:
    """Write a picture as it is, as PNG into `folder`/media; returns its path relative to `folder`.

    Raises WriteError naming a file that cannot be written.
    """
    return _write(folder, Image.fromarray(np.asarray(picture)))


def _write(folder: Path, image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    path = folder / MEDIA / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            replace_bytes(path, buffer.getvalue())
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error}") from error
    return path.relative_to(folder).as_posix()
