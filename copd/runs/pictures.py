"""Pictures and frames of sampled problems, kept small beside the samples so that a report needs no task."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from copd.errors import CheckpointError
from copd.system.files import replace_bytes
from copd.types import Problem

MEDIA = "media"
LONGEST_SIDE = 320
"""Pixels; larger pictures are scaled down."""
MOST_PICTURES = 8
"""Pictures, and frames per video, kept of one problem; of more, as many are taken at equal distances."""


def keep_media(folder: Path, problem: Problem) -> dict[str, Any]:
    """Write a problem's pictures and frames as PNG into `folder`/media, each once, named by content.

    Returns their paths, relative to `folder`: "images" a list, "videos" a list of the frames kept of each and of their
    number in all. Raises CheckpointError naming the file where the disk refuses.
    """
    return {
        "images": [_keep(folder, image) for image in _spread(problem.images)],
        "videos": [
            {"frames": [_keep(folder, frame) for frame in _spread(video)], "frames_in_all": len(video)}
            for video in problem.videos[:MOST_PICTURES]
        ],
    }


def _spread(items: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """All, or `MOST_PICTURES` at equal distances, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST_PICTURES)).round().astype(int))
    return [items[i] for i in chosen]


def _keep(folder: Path, picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    path = folder / MEDIA / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            replace_bytes(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    return path.relative_to(folder).as_posix()
