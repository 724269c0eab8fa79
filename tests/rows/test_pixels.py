"""Media of rows hold no pixels; they are decoded when they are asked for, and must still be what they were."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
from PIL import Image

from copd.errors import DataError
from copd.rewards.answers import final_answer
from copd.rows.formats import RowRules
from copd.rows.opening import Settings
from copd.rows.rows import Rows
from copd.types import Split, digest_of

SETTINGS = Settings(RowRules(frozenset({"integer"}), partial(final_answer, finished=True), verifier="integer"))
SIDE = 256
NAMES = ("a.png", "b.png", "c.png")


def draw(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def problem(tmp_path):
    """One with an image and a video of two frames, in line 2 of its file."""
    for seed, name in enumerate(NAMES):
        draw(tmp_path / name, seed)
    row = {"prompt": "?", "answer": "1", "images": [NAMES[0]], "videos": [list(NAMES[1:])], "fps": 4}
    (tmp_path / "r.jsonl").write_text("\n" + json.dumps(row))
    return Rows("seen", {split: [str(tmp_path / "r.jsonl")] for split in Split}, SETTINGS).problem(Split.TEST, 0)


def test_a_problem_holds_no_pixels_and_gives_them_as_often_as_it_is_asked(problem, tmp_path):
    assert problem.held_bytes == 0
    assert len(pickle.dumps(problem)) < 3_000
    (image,), (video,) = problem.images, problem.videos
    assert (image.shape, video.shape, problem.fps) == ((SIDE, SIDE, 3), (2, SIDE, SIDE, 3), (4.0,))
    for _ in range(2):
        assert np.array_equal(np.asarray(image), draw(tmp_path / "again.png", 0))
    assert np.array_equal(np.asarray(video)[1], draw(tmp_path / "again.png", 2))
    assert digest_of(image) == digest_of(np.asarray(image)) != digest_of(video) == digest_of(np.asarray(video))


def test_a_picture_that_is_another_one_later_is_an_error_that_names_row_and_file(problem, tmp_path):
    draw(tmp_path / "a.png", 7)
    with pytest.raises(
        DataError, match=r"r\.jsonl:2: image 'a\.png': has changed since it was first read; start again$"
    ):
        np.asarray(problem.images[0])
    np.asarray(problem.videos[0])
    draw(tmp_path / "c.png", 7)
    with pytest.raises(DataError, match=r"r\.jsonl:2: video of 2 pictures: has changed"):
        np.asarray(problem.videos[0])


def test_a_picture_that_cannot_be_decoded_later_is_an_error_that_says_why(problem, tmp_path):
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with pytest.raises(DataError, match=r"r\.jsonl:2: image 'a\.png': was sound before, and is not now: .*truncated"):
        np.asarray(problem.images[0])
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"r\.jsonl:2: .*'b\.png': not found"):
        np.asarray(problem.videos[0])
