"""Real pictures and films for tests: sound ones, and some that no encoder would write."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def film(path: Path, frames=30, rate=10, size=(64, 48), ticks=None, codec="mpeg4", gop=12, **options) -> bytes:
    """Frames of one grey each, 8 lighter than the last, at the given ticks of 1 / rate second."""
    import av

    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", gop, 2_000_000
        stream.codec_context.time_base = Fraction(1, rate)
        for i in range(frames):
            grey = np.full((size[1], size[0], 3), i * 8 % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = (ticks or range(frames))[i], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def matroska(frames: int, seconds: float = 2.0) -> bytes:
    """A film of so many equal JPEG frames, 64 x 48, in one block: all but the first have no time stamp of their own."""

    def element(name: str, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return bytes.fromhex(name) + struct.pack(">Q", len(data) | 1 << 56) + data

    picture = encoded(Image.new("RGB", (64, 48)), "JPEG")
    size = element("E0", element("B0", b"\x40"), element("BA", b"\x30"))
    track = element(
        "AE", element("D7", b"\1"), element("73C5", b"\1"), element("83", b"\1"), element("86", b"V_MJPEG"), size
    )
    info = element("1549A966", element("2AD7B1", b"\x0f\x42\x40"), element("4489", struct.pack(">f", 1000 * seconds)))
    laced = [element("A3", b"\x81\0\0\x84" + bytes([frames - 1]) + picture * frames)] if frames else []
    cluster = element("1F43B675", element("E7", b"\0"), *laced)
    return element("1A45DFA3", element("4282", b"matroska")) + element(
        "18538067", info, element("1654AE6B", track), cluster
    )
