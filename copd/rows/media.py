"""Decodes images and videos of rows safely: nothing outside the data root, nothing beyond bounds.

Data counts as hostile until it is decoded: a path may lead out of the root or to a device, and a picture may be a
decompression bomb. So paths are resolved and opened without waiting, and sizes are read from headers before anything is
decoded. Only PNG, JPEG and WEBP are accepted, whatever a file's name says. Everything becomes RGB uint8.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from copd.errors import BadRow

FORMATS = ("PNG", "JPEG", "WEBP")
# Pillow's own bound would be the lower one. Here every size is checked, from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
MAX_FILE_BYTES = 2**31
MAX_IMAGE_BYTES = 2**26
MIN_SIDE, MAX_ASPECT = 4, 200
"""A shorter side can be mistaken for a colour channel. The processors of Qwen-VL refuse a greater aspect ratio."""
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

Reference = str | bytes
"""A path that starts at the data root, or the content of a file."""


@dataclass(frozen=True)
class MediaRules:
    """Bounds; fields as in `copd.recipe.task_sections.MediaSection`."""

    max_image_pixels: int = 2**26
    image_pixels: int = 2**22
    frame_pixels: int = 2**18
    max_frames: int = 64
    fps: float = 2.0
    max_video_seconds: float = 1800.0


@dataclass(frozen=True)
class DataRoot:
    """Paths start in `folder` and may not leave `within`. The two differ only for the hub's cache of links."""

    folder: Path
    within: Path

    @classmethod
    def at(cls, folder: Path) -> DataRoot:
        return cls(folder, folder)

    def find(self, name: str) -> Path:
        """The regular file that a row's path leads to, symbolic links resolved; raises BadRow."""
        if not name or "\0" in name:
            raise BadRow("an empty path, or one with NUL")
        if SCHEME.match(name):
            raise BadRow("a URL; accepted: a path inside the data root, or the file's bytes")
        if name.startswith(("/", "\\")):
            raise BadRow("an absolute path; accepted: one that starts at the data root")
        if ".." in re.split(r"[/\\]", name):
            raise BadRow("'..' in a path; accepted: one that stays inside the data root")
        try:
            path = (self.folder / name).resolve(strict=True)
            mode = path.stat().st_mode
        except (OSError, RuntimeError, ValueError) as error:  # of half a surrogate pair, ValueError
            raise BadRow(f"not found in {self.folder} ({reason(error)})") from None
        if not path.is_relative_to(self.within.resolve()):
            raise BadRow(f"a link that leads out of the data root {self.folder}")
        if stat.S_ISDIR(mode):
            raise BadRow(
                f"a folder; accepted: a picture ({', '.join(FORMATS)}), a video (MP4, WEBM, Matroska), or for a video "
                "the list of its frames, each a picture"
            )
        if not stat.S_ISREG(mode):
            raise BadRow("not a regular file")
        return path

    def open(self, name: str) -> BinaryIO:
        """Open the file that a row's path leads to, without ever waiting, for instance for a pipe. Raises BadRow."""
        path = self.find(name)
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            file = os.fdopen(os.open(path, flags), "rb")
        except OSError as error:
            raise BadRow(f"cannot be opened ({reason(error)})") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            file.close()
            raise BadRow(f"not a regular file, or larger than {MAX_FILE_BYTES} bytes")
        return file


class Content(bytes):
    """The content of a file that a user gave. Messages name the file."""

    file: Path

    def __new__(cls, file: Path) -> Content:
        """Raises OSError if the file cannot be read."""
        content = super().__new__(cls, file.read_bytes())
        content.file = file
        return content


def named(reference: Reference) -> str:
    """The name of a reference in messages."""
    if isinstance(reference, Content):
        return str(reference.file)
    if isinstance(reference, bytes):
        return f"<{len(reference)} bytes>"
    return repr(reference if len(reference) <= 120 else f"{reference[:117]}...")


def reason(error: Exception) -> str:
    """An error's message without file names, as one short line."""
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return said.splitlines()[0][:120]


def load_image(reference: Reference, root: DataRoot, rules: MediaRules, pixels: int | None = None) -> np.ndarray:
    """Decode one picture to [H, W, 3] uint8, scaled down to about `pixels` (default `rules.image_pixels`).

    The picture is turned as its EXIF says, transparency becomes white, and 16 bits a channel become 8. Raises BadRow.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of a file that it reads all the same
            return _decode(_read(reference, root), rules.max_image_pixels, pixels or rules.image_pixels)
    except BadRow as error:
        raise BadRow(f"image {named(reference)}: {error}") from None


def load_frames(
    references: Sequence[Reference], root: DataRoot, rules: MediaRules, fps: float | None
) -> tuple[np.ndarray, float]:
    """A video given as pictures: [frames, H, W, 3] uint8, and the frame rate after thinning out. Raises BadRow."""
    count = min(len(references), rules.max_frames)
    chosen = [i * len(references) // count for i in range(count)]
    frames = [load_image(references[i], root, rules, rules.frame_pixels) for i in chosen]
    for i, frame in zip(chosen, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise BadRow(f"frame {i + 1} is {_size(frame)}, the first is {_size(frames[0])}; all must be alike")
    return in_pairs(frames), (fps or rules.fps) * count / len(references)


def in_pairs(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames as one array. A single frame is doubled, since models merge frames in pairs."""
    return np.stack(frames if len(frames) > 1 else [*frames, *frames])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadRow for a picture that is too large, too small or too long."""
    if width * height > max_pixels:
        raise BadRow(f"{width} x {height} pixels; accepted: at most {max_pixels} (media.max_image_pixels)")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise BadRow(
            f"{width} x {height} pixels; accepted: sides of at least {MIN_SIDE}, at most {MAX_ASPECT} times the other"
        )


def shrunk(width: int, height: int, pixels: int) -> tuple[int, int]:
    """The size with the same aspect ratio and at most about `pixels` pixels."""
    scale = min(1.0, (pixels / (width * height)) ** 0.5)
    return max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale))


def opened(reference: Reference, root: DataRoot) -> BinaryIO:
    """The content of a reference as a binary file; raises BadRow."""
    return BytesIO(reference) if isinstance(reference, bytes) else root.open(reference)


def _read(reference: Reference, root: DataRoot) -> bytes:
    with opened(reference, root) as file:
        try:
            data = file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise BadRow(f"cannot be read ({reason(error)})") from None
    if not data:
        raise BadRow("empty, 0 bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise BadRow(f"larger than {MAX_IMAGE_BYTES} bytes")
    return data


def _decode(data: bytes, max_pixels: int, pixels: int) -> np.ndarray:
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except Exception as error:  # the parsers of a hostile header raise whatever they like
        if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or data[8:12] == b"WEBP":
            raise BadRow(f"damaged or truncated ({type(error).__name__})") from None
        raise BadRow(f"not a picture of an accepted format; accepted: {', '.join(FORMATS)}") from None
    with image:
        check_size(*image.size, max_pixels)
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo with a second one beside it
            raise BadRow("animated; accepted: a still picture, or a video as a list of frames")
        try:
            image.load()
            rgb = _rgb(ImageOps.exif_transpose(image))
            size = shrunk(*rgb.size, pixels)
            return np.array(rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC))
        except Exception as error:
            raise BadRow(f"damaged or truncated ({reason(error)})") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]} pixels"
