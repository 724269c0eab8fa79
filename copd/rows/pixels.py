"""The media of a row, decoded to be checked, and then again whenever a model or a person is to see them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from copd.errors import BadRow, DataError
from copd.rows.formats import Row
from copd.rows.media import DataRoot, MediaRules, load_frames, load_image, named
from copd.rows.references import Video
from copd.rows.video import load_video
from copd.types import Pixels, digest_of


def load_media(
    row: Row, root: DataRoot, rules: MediaRules, where: str
) -> tuple[tuple[Pixels, ...], tuple[Pixels, ...], tuple[float, ...]]:
    """A row's images, its videos, and the videos' frames per second. Each is decoded once, and not kept.

    Raises BadRow. If an image or video is another one later, decoding it raises DataError, which begins with `where`.
    """
    images = []
    for reference in row.images:
        load = partial(load_image, reference, root, rules)
        images.append(_unkept(load(), load, f"{where}: image {named(reference)}"))
    videos, rates = [], []
    for video in row.videos:
        name = f"of {len(video)} pictures" if isinstance(video, tuple) else named(video)
        frames, rate = _load_video(video, root, rules, row.fps)
        videos.append(_unkept(frames, partial(_frames, video, root, rules), f"{where}: video {name}"))
        rates.append(rate)
    return tuple(images), tuple(videos), tuple(rates)


def _load_video(video: Video, root: DataRoot, rules: MediaRules, fps: float | None) -> tuple[np.ndarray, float]:
    return load_frames(video, root, rules, fps) if isinstance(video, tuple) else load_video(video, root, rules)


def _frames(video: Video, root: DataRoot, rules: MediaRules) -> np.ndarray:
    return _load_video(video, root, rules, None)[0]


def _unkept(pixels: np.ndarray, load: Callable[[], np.ndarray], name: str) -> Pixels:
    digest = digest_of(pixels)
    return Pixels(pixels.shape, digest, partial(_loaded_again, load, digest, name))


def _loaded_again(load: Callable[[], np.ndarray], digest: bytes, name: str) -> np.ndarray:
    try:
        pixels = load()
    except BadRow as error:
        raise DataError(f"{name}: was sound before, and is not now: {error}") from None
    if digest_of(pixels) != digest:
        raise DataError(f"{name}: has changed since it was first read; start again")
    return pixels
