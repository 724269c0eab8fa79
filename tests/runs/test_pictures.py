"""Pictures and frames beside the samples: small, once each, readable."""

import numpy as np
import pytest
from PIL import Image

from copd.errors import WriteError
from copd.runs.pictures import LONGEST_SIDE, MEDIA, MOST_PICTURES, keep_media, kept_pictures
from copd.types import Problem

RNG = np.random.default_rng(0)


def picture(height=16, width=32) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def problem(images=(), videos=()) -> Problem:
    return Problem("a/../../b", "image", "", "", "integer", images=tuple(images), videos=tuple(videos))


def test_a_small_picture_is_kept_to_the_pixel(tmp_path):
    image = picture()
    (path,) = keep_media(tmp_path, problem([image]))["images"]
    assert path.startswith("media/")
    assert (np.asarray(Image.open(tmp_path / path)) == image).all()


def test_what_is_kept_is_read_again_and_what_is_gone_or_no_picture_is_named(tmp_path):
    image = picture()
    (path,) = keep_media(tmp_path, problem([image]))["images"]
    (found,) = kept_pictures(tmp_path, [path])
    assert (found == image).all()
    (tmp_path / path).write_text("none")
    for name in (path, "media/gone.png"):
        with pytest.raises(WriteError, match=f"{name}: was written and cannot be read: "):
            kept_pictures(tmp_path, [name])


def test_frames_of_a_video_are_kept_in_order(tmp_path):
    video = np.stack([picture() for _ in range(4)])
    (kept,) = keep_media(tmp_path, problem(videos=[video]))["videos"]
    assert kept["frames_in_all"] == 4
    assert [(np.asarray(Image.open(tmp_path / p)) == f).all() for p, f in zip(kept["frames"], video, strict=True)]


def test_a_text_problem_has_no_media_and_makes_no_folder(tmp_path):
    assert keep_media(tmp_path, problem()) == {"images": [], "videos": []}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "kept"), [((800, 1600), (320, 160)), ((2000, 10), (2, 320)), ((320, 320), (320, 320))]
)
def test_a_large_picture_is_scaled_down_in_proportion(tmp_path, size, kept):
    (path,) = keep_media(tmp_path, problem([picture(*size)]))["images"]
    assert Image.open(tmp_path / path).size == kept
    assert max(kept) <= LONGEST_SIDE


def test_of_a_long_video_frames_at_equal_distances_are_kept_the_first_and_last_among_them(tmp_path):
    video = np.stack([np.full((4, 4, 3), i, np.uint8) for i in range(100)])
    (kept,) = keep_media(tmp_path, problem(videos=[video]))["videos"]
    shades = [int(np.asarray(Image.open(tmp_path / path))[0, 0, 0]) for path in kept["frames"]]
    assert kept["frames_in_all"] == 100
    assert len(shades) == MOST_PICTURES
    assert (shades[0], shades[-1]) == (0, 99)
    assert max(np.diff(shades)) - min(np.diff(shades)) <= 1


def test_the_same_picture_is_one_file_and_is_not_written_again(tmp_path):
    image = picture()
    (first,) = keep_media(tmp_path, problem([image]))["images"]
    before = (tmp_path / first).stat().st_mtime_ns
    (again, other) = keep_media(tmp_path, problem([image, picture()]))["images"]
    assert first == again != other
    assert len(list((tmp_path / "media").iterdir())) == 2
    assert (tmp_path / first).stat().st_mtime_ns == before


def test_a_full_disk_is_named(tmp_path, in_small_files):
    script = (
        "import numpy as np; from copd.errors import WriteError\n"
        "from copd.runs.pictures import keep_media; from copd.types import Problem\n"
        "noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)\n"
        "small()\n"
        "try: keep_media(path, Problem('', '', '', '', '', images=(noise,)))\n"
        "except WriteError as error: print(error)\n"
    )
    said = in_small_files(script, tmp_path)
    assert f"{tmp_path}/media/" in said
    assert "cannot be written" in said
    assert not list((tmp_path / "media").glob("*.png"))


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / MEDIA).touch()
    with pytest.raises(WriteError, match=rf"{tmp_path}.*\.png: cannot be written"):
        keep_media(tmp_path, problem([picture()]))
