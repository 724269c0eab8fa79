"""Images: nothing outside the root, nothing beyond bounds, everything RGB uint8. The files are real ones."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from media_files import encoded
from PIL import Image

from copd.errors import BadRow
from copd.rows.media import (
    MAX_FILE_BYTES,
    MAX_IMAGE_BYTES,
    DataRoot,
    MediaRules,
    load_frames,
    load_image,
    shrunk,
)

RULES = MediaRules()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return DataRoot.at(tmp_path / "data")


def gradient(width=40, height=20) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


PICTURE = Image.fromarray(gradient())


def refusal(reference, root, rules=RULES) -> str:
    with pytest.raises(BadRow) as refused:
        load_image(reference, root, rules)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read_from_paths_and_from_bytes(root, kind):
    content = encoded(PICTURE, kind)
    (root.folder / "sub").mkdir()
    (root.folder / "sub" / "picture").write_bytes(content)
    image = load_image("sub/picture", root, RULES)
    assert (image.shape, image.dtype) == ((20, 40, 3), np.uint8)
    assert np.abs(image.astype(int) - gradient()).mean() < 12
    assert np.array_equal(image, load_image(content, root, RULES))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "'..' in a path"),
        ("sub/../../secret.png", "'..' in a path"),
        ("..\\secret.png", "'..' in a path"),
        ("/etc/passwd", "an absolute path"),
        ("\\\\host\\share", "an absolute path"),
        ("C:\\secret.png", "a URL"),
        ("http://host/a.png", "a URL"),
        ("file:///etc/passwd", "a URL"),
        ("data:image/png;base64,AAAA", "a URL"),
        ("", "an empty path"),
        ("a\0.png", "with NUL"),
        ("missing.png", "not found in"),
        ("x" * 5000, "not found in"),
        (
            ".",
            "a folder; accepted: a picture (PNG, JPEG, WEBP), a video (MP4, WEBM, Matroska), or for a video the list",
        ),
        ("out/secret.png", "a link that leads out of the data root"),
        ("secret-link.png", "a link that leads out of the data root"),
        ("null", "a link that leads out of the data root"),
        ("pipe", "not a regular file"),
        ("loop", "not found in"),
    ],
)
def test_no_path_leads_out_of_the_root_or_to_anything_but_a_file(root, name, said):
    outside = root.folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encoded(PICTURE))
    (root.folder / "out").symlink_to(outside)
    (root.folder / "secret-link.png").symlink_to(outside / "secret.png")
    (root.folder / "null").symlink_to("/dev/null")
    (root.folder / "loop").symlink_to(root.folder / "loop")
    os.mkfifo(root.folder / "pipe")
    assert said in refusal(name, root)


def test_a_link_within_the_root_is_followed(root):
    (root.folder / "a.png").write_bytes(encoded(PICTURE))
    (root.folder / "b.png").symlink_to("a.png")
    assert load_image("b.png", root, RULES).shape == (20, 40, 3)


def bomb(width: int, height: int) -> bytes:
    """A sound PNG of one colour, a thousandth of its pixels in size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    packed = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    content = bomb(30_000, 30_000)
    assert len(content) < 200_000
    script = (
        "import resource, sys; from pathlib import Path; from copd.errors import BadRow\n"
        "from copd.rows.media import *\n"
        "content = sys.stdin.buffer.read(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_image(content, DataRoot.at(Path('.')), MediaRules())\n"
        "except BadRow as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True)
    said, mebibytes = done.stdout.decode().splitlines()
    assert "30000 x 30000 pixels; accepted: at most 67108864 (media.max_image_pixels)" in said
    assert int(mebibytes) < 50, "900 million pixels would take more"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((300, 300), "300 x 300 pixels; accepted: at most 80000 (media.max_image_pixels)"),
        ((1, 1), "1 x 1 pixels; accepted: sides of at least 4, at most 200 times the other"),
        ((300, 1), "accepted: sides of at least 4"),
        ((2000, 8), "at most 200 times the other"),
        ((3, 300), "accepted: sides of at least 4"),
    ],
)
def test_pictures_too_large_too_small_or_too_long_are_refused_by_their_size(root, size, said):
    assert said in refusal(encoded(Image.new("RGB", size)), root, MediaRules(max_image_pixels=80_000))


def test_a_picture_too_large_is_not_decoded_to_find_that_out(root):
    content = encoded(Image.effect_noise((300, 300), 50))
    assert "damaged or truncated" in refusal(content[:-100], root)
    assert "300 x 300 pixels; accepted" in refusal(content[:-100], root, MediaRules(max_image_pixels=80_000))


@pytest.mark.parametrize(
    ("accepted", "said"),
    [
        (2**28, "20000 x 20000 pixels; accepted: at most 268435456 (media.max_image_pixels)"),
        (2**29, "damaged or truncated (image file is truncated)"),
    ],
)
def test_a_bound_above_that_of_pillow_is_the_one_that_counts(root, accepted, said):
    cut_short = bomb(20_000, 20_000)[:300]
    assert said in refusal(cut_short, root, MediaRules(max_image_pixels=accepted))


def test_the_size_of_a_frame_is_checked_like_that_of_a_picture(root):
    frames = [encoded(Image.new("RGB", size)) for size in ((8, 8), (300, 300))]
    with pytest.raises(BadRow, match=r"300 x 300 pixels; accepted: at most 80000 \(media.max_image_pixels\)"):
        load_frames(frames, root, MediaRules(max_image_pixels=80_000), None)


def test_a_picture_of_100000_by_1_is_refused(root):
    assert "100000 x 1 pixels" in refusal(encoded(Image.new("L", (100_000, 1))), root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty, 0 bytes"),
        *((encoded(PICTURE, kind)[:-n], "damaged or truncated") for kind in ("PNG", "JPEG", "WEBP") for n in (30, 100)),
        (encoded(PICTURE, "GIF"), "not a picture of an accepted format; accepted: PNG, JPEG, WEBP"),
        (encoded(PICTURE, "TIFF"), "not a picture of an accepted format"),
        (encoded(PICTURE, "BMP"), "not a picture of an accepted format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture of an accepted format"),
        (b"<html>404</html>", "not a picture of an accepted format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture of an accepted format"),
        (encoded(PICTURE, "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 20))]), "animated"),
        (encoded(PICTURE, "PNG", save_all=True, append_images=[Image.new("RGB", (40, 20))]), "animated"),
    ],
)
def test_what_is_no_sound_still_picture_is_refused_whatever_it_is_called(root, content, said):
    (root.folder / "a.png").write_bytes(content)
    assert said in refusal("a.png", root)
    assert "image 'a.png': " in refusal("a.png", root)


def test_a_picture_with_the_extension_of_another_format_is_read_by_its_content(root):
    (root.folder / "a.jpg").write_bytes(encoded(PICTURE))
    assert np.array_equal(load_image("a.jpg", root, RULES), gradient())


def test_a_picture_is_turned_as_its_exif_says(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(PICTURE, "PNG", exif=exif), root, RULES)
    assert np.array_equal(image, np.rot90(gradient(), -1))


def test_sixteen_bits_become_eight_by_scaling(root):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = load_image(encoded(Image.fromarray(ramp)), root, RULES)
    assert np.array_equal(image[..., 0], ramp >> 8)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_cmyk_palette_grey_and_bilevel_become_rgb(root):
    cmyk = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), root, RULES)
    assert np.abs(cmyk.astype(int) - [255, 0, 0]).max() < 8
    palette = Image.fromarray(gradient()).quantize(16)
    assert np.array_equal(load_image(encoded(palette), root, RULES), np.array(palette.convert("RGB")))
    assert (load_image(encoded(Image.new("L", (8, 8), 7)), root, RULES) == 7).all()
    assert (load_image(encoded(Image.new("1", (8, 8), 1)), root, RULES) == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_stands_on_white(root, mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    image = load_image(encoded(picture.convert(mode) if mode != "P" else picture.quantize(4)), root, RULES)
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] == 255).all()


def test_large_pictures_are_scaled_down_to_about_the_bound_and_keep_their_shape(root):
    image = load_image(encoded(Image.new("RGB", (400, 100), "red")), root, MediaRules(image_pixels=10_000))
    assert image.shape == (50, 200, 3)
    assert (image == [255, 0, 0]).all()
    assert shrunk(40, 20, 10_000) == (40, 20)


def test_a_list_of_pictures_is_a_video(root):
    frames, fps = load_frames([encoded(Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(5)], root, RULES, 4.0)
    assert (frames.shape, fps) == ((5, 8, 8, 3), 4.0)
    assert frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert load_frames([encoded(PICTURE)] * 2, root, RULES, None)[1] == RULES.fps


def test_more_frames_than_the_bound_are_thinned_out_evenly_and_only_those_are_decoded(root):
    content = [encoded(Image.new("RGB", (8, 8), (i, 0, 0))) if i % 2 == 0 else b"no picture" for i in range(8)]
    frames, fps = load_frames(content, root, MediaRules(max_frames=4), 8.0)
    assert frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert fps == 4.0


def test_a_single_frame_stands_twice(root):
    frames, _ = load_frames([encoded(PICTURE)], root, RULES, None)
    assert len(frames) == 2
    assert np.array_equal(frames[0], frames[1])


def test_frames_of_different_size_are_refused(root):
    with pytest.raises(BadRow, match="frame 2 is 8 x 9 pixels, the first is 40 x 20 pixels"):
        load_frames([encoded(PICTURE), encoded(Image.new("RGB", (8, 9)))], root, RULES, None)


def test_damaged_pictures_of_any_kind_are_read_or_refused_but_nothing_crashes(root):
    rng, said = np.random.default_rng(0), []
    for kind in ("PNG", "JPEG", "WEBP"):
        content = np.frombuffer(encoded(PICTURE, kind), np.uint8)
        for _ in range(150):
            broken = content.copy()
            broken[rng.integers(0, len(broken), 4)] = rng.integers(0, 256, 4)
            try:
                assert load_image(broken.tobytes(), root, RULES).shape[2] == 3
            except BadRow as error:
                said.append(str(error))
    assert 0 < len(said) < 450
    assert not any("\n" in reason for reason in said)


def test_a_file_beyond_the_bound_is_refused_with_the_bound(root):
    with (root.folder / "film.mp4").open("wb") as file:
        os.truncate(file.fileno(), MAX_FILE_BYTES + 1)
    with pytest.raises(BadRow, match=f"not a regular file, or larger than {MAX_FILE_BYTES} bytes"):
        root.open("film.mp4")


def test_a_picture_beyond_the_bound_is_refused_with_the_bound(root):
    said = f"image <{MAX_IMAGE_BYTES + 1} bytes>: larger than {MAX_IMAGE_BYTES} bytes"
    assert refusal(bytes(MAX_IMAGE_BYTES + 1), root) == said


def test_a_picture_that_the_system_does_not_open_is_refused_by_name(root, no_more_files):
    (root.folder / "a.png").write_bytes(encoded(PICTURE))
    with no_more_files():
        said = refusal("a.png", root)
    assert said == "image 'a.png': cannot be opened (Too many open files)"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the system has no file that opens and cannot be read")
def test_a_picture_that_opens_and_cannot_be_read_is_refused_by_name():
    said = refusal("mem", DataRoot.at(Path("/proc/self")))
    assert said == "image 'mem': cannot be read (Input/output error)"
