"""Video files to frames, through PyAV: MP4 and Matroska/WEBM only, sampled evenly in time, within caps.

The first bytes decide the container's format, so that no playlist, or other format that opens further files, is ever
tried. Frames are chosen by their time stamps, so that a variable rate is no problem. Frame size, duration, decoded
frames and seconds of decoding have caps. A single call into ffmpeg is not interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from copd.errors import BadRow, DataError
from copd.rows.media import DataRoot, MediaRules, Reference, check_size, in_pairs, named, opened, reason, shrunk

MAX_DECODED_FRAMES = 20_000
MAX_PACKETS = 1_000_000
MAX_OPENING_SECONDS, MAX_DECODING_SECONDS = 10.0, 120.0
SEEK_SECONDS = 5.0
"""If the next frame is further away than this, the file is searched for it instead of decoded up to it."""
TICK_SECONDS = 1e-6


def load_video(reference: Reference, root: DataRoot, rules: MediaRules) -> tuple[np.ndarray, float]:
    """Decode a video file: [frames, H, W, 3] uint8 and frames per second.

    `rules.fps` frames are taken per second, at most as many as the file has, and at most `rules.max_frames` in all, at
    equal distances. Raises BadRow, and DataError if PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise DataError("video files need PyAV: pip install av") from None
    try:
        with opened(reference, root) as file:
            format_name = _container_format(file)
            with av.open(file, format=format_name, timeout=MAX_OPENING_SECONDS) as container:
                return _Sampler(container, rules).sample()
    except BadRow as error:
        raise BadRow(f"video {named(reference)}: {error}") from None
    except Exception as error:  # in a hostile file anything may be missing
        raise BadRow(f"video {named(reference)}: damaged or truncated ({reason(error)})") from None


def _container_format(file: BinaryIO) -> str:
    head = file.read(12)
    file.seek(0)
    if not head:
        raise BadRow("empty, 0 bytes")
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    raise BadRow("not a video of an accepted format; accepted: MP4, WEBM, Matroska")


class _Sampler:
    """One pass over one open container, within the caps."""

    def __init__(self, container: Any, rules: MediaRules) -> None:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise BadRow("no video stream in it, or one of an unknown codec")
        self.container, self.rules = container, rules
        self.stream = container.streams.video[0]
        self.stream.thread_type = "NONE"
        self.rate = float(self.stream.average_rate or rules.fps)
        self.start = float((self.stream.start_time or 0) * self.stream.time_base)
        self.decoded = self.packets = 0
        self.deadline = time.monotonic() + MAX_DECODING_SECONDS
        check_size(self.stream.width, self.stream.height, rules.max_image_pixels)

    def sample(self) -> tuple[np.ndarray, float]:
        seconds = self._seconds()
        if seconds > self.rules.max_video_seconds:
            raise BadRow(
                f"{seconds:.0f} seconds; accepted: at most {self.rules.max_video_seconds:g} (media.max_video_seconds)"
            )
        step = max(1 / min(self.rules.fps, self.rate), seconds / self.rules.max_frames)
        count = min(self.rules.max_frames, max(1, round(seconds / step)))
        frames = self._at([i * step for i in range(count)])
        if not frames:
            raise BadRow("a video of no frames")
        return in_pairs(frames), 1 / step

    def _seconds(self) -> float:
        """The duration that the file states, else the one by the time stamps of its packets."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if self.container.duration:
            return self.container.duration / 1e6
        stamps = [p.pts * self.stream.time_base for p in self._demuxed() if p.pts is not None]
        self.container.seek(0)
        return float(max(stamps, default=0)) - self.start + 1 / self.rate

    def _at(self, times: list[float]) -> list[np.ndarray]:
        """The frames shown at these times, up to the end. Raises BadRow if the video ends too early."""
        frames, shown = self._decoded(), None
        following = next(frames, None)
        taken: list[np.ndarray] = []
        for at in times:
            if following is not None and at - self._time(following) > SEEK_SECONDS:
                self.container.seek(round((self.start + at) / self.stream.time_base), stream=self.stream)
                frames, shown = self._decoded(), None
                following = next(frames, None)
            while following is not None and self._time(following) <= at + TICK_SECONDS:
                shown, following = following, next(frames, None)
            if following is None and (shown is None or at > self._time(shown) + 1 + 1 / self.rate):
                if self.stream.duration and taken:
                    raise BadRow(f"damaged or truncated (it ends before second {at:g})")
                break
            taken.append(self._pixels(following if shown is None else shown))
        return taken

    def _decoded(self) -> Iterator[Any]:
        for packet in self._demuxed():
            for frame in packet.decode():
                self.decoded += 1
                if self.decoded > MAX_DECODED_FRAMES:
                    raise BadRow(f"more than {MAX_DECODED_FRAMES} frames had to be decoded; it has too few key frames")
                yield frame

    def _demuxed(self) -> Iterator[Any]:
        for packet in self.container.demux(self.stream):
            self.packets += 1
            if self.packets > MAX_PACKETS or time.monotonic() > self.deadline:
                raise BadRow(f"more than {MAX_PACKETS} packets, or {MAX_DECODING_SECONDS:.0f} seconds of decoding")
            yield packet

    def _time(self, frame: Any) -> float:
        if frame.time is None:
            raise BadRow("a frame without a time stamp")
        return frame.time - self.start

    def _pixels(self, frame: Any) -> np.ndarray:
        check_size(frame.width, frame.height, self.rules.max_image_pixels)
        width, height = shrunk(self.stream.width, self.stream.height, self.rules.frame_pixels)
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
