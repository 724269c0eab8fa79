"""Video files: frames by their time, within caps; hostile and damaged ones are refused. The files are real ones."""

import struct
import time

import numpy as np
import pytest
from media_files import film, matroska

from copd.errors import BadRow, DataError
from copd.rows import video
from copd.rows.media import DataRoot, MediaRules
from copd.rows.video import load_video

av = pytest.importorskip("av", reason="av is not installed: pip install av")
RULES = MediaRules()


@pytest.fixture
def root(tmp_path):
    return DataRoot.at(tmp_path)


@pytest.fixture
def movie(tmp_path):
    def write(name="a.mp4", **how) -> bytes:
        return film(tmp_path / name, **how)

    return write


def shades(frames: np.ndarray) -> list[int]:
    """The number of the frame, by its grey."""
    return [round(float(frame.mean()) / 8) for frame in frames]


def refusal(reference, root, rules=RULES) -> str:
    with pytest.raises(BadRow) as refused:
        load_video(reference, root, rules)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.mkv", "mpeg4")]
)
def test_frames_are_taken_at_the_asked_rate_from_a_path_or_bytes(movie, root, name, codec):
    content = movie(name, codec=codec)
    frames, fps = load_video(name, root, RULES)
    assert (frames.shape, frames.dtype, fps) == ((6, 48, 64, 3), np.uint8, 2.0)
    assert shades(frames) == [0, 5, 10, 15, 20, 25]
    assert np.array_equal(load_video(content, root, RULES)[0], frames)


@pytest.mark.parametrize(
    ("rules", "taken", "fps"),
    [
        (MediaRules(max_frames=3), [0, 10, 20], 1.0),
        (MediaRules(fps=1), [0, 10, 20], 1.0),
        (MediaRules(fps=10, max_frames=64), list(range(30)), 10.0),
        (MediaRules(fps=25, max_frames=64), list(range(30)), 10.0),
        (MediaRules(fps=0.01), [0, 0], 0.01),
    ],
)
def test_frames_are_spread_evenly_and_never_more_than_there_are(movie, root, rules, taken, fps):
    frames, rate = load_video(movie(), root, rules)
    assert shades(frames) == taken
    assert rate == pytest.approx(fps)


def test_frames_go_by_time_where_the_rate_varies(movie, root):
    content = movie(frames=5, ticks=[0, 1, 2, 30, 31])
    assert shades(load_video(content, root, MediaRules(fps=1))[0]) == [0, 2, 2]
    frames, fps = load_video(content, root, MediaRules(max_frames=2))
    assert (shades(frames), fps) == ([0, 2], pytest.approx(2 / 3.2))


def test_a_video_of_one_frame_gives_it_twice(movie, root):
    assert shades(load_video(movie(frames=1), root, RULES)[0]) == [0, 0]


def test_a_film_of_no_frames_is_refused(movie, root):
    assert "a video of no frames" in refusal(matroska(frames=0), root)
    whole = movie(movflags="frag_keyframe+empty_moov")
    assert "0 x 0 pixels" in refusal(whole[: whole.index(b"moof") - 4], root)


def test_a_frame_without_a_time_stamp_is_refused(root):
    assert len(load_video(matroska(frames=1), root, RULES)[0])
    assert "a frame without a time stamp" in refusal(matroska(frames=3), root)


@pytest.mark.parametrize("gop", [60, 5000])
def test_an_hour_is_refused_or_sampled_by_seeking(movie, root, gop):
    content = movie(frames=3600, rate=1, gop=gop, size=(16, 16))
    assert "3600 seconds; accepted: at most 1800 (media.max_video_seconds)" in refusal(content, root)
    frames, fps = load_video(content, root, MediaRules(max_video_seconds=4000, max_frames=5))
    assert shades(frames) == [720 * i % 32 for i in range(5)]
    assert fps == pytest.approx(1 / 720)


def test_a_film_with_too_few_key_frames_is_refused_once_too_much_had_to_be_decoded(movie, root, monkeypatch):
    monkeypatch.setattr(video, "MAX_DECODED_FRAMES", 10)
    assert "more than 10 frames had to be decoded" in refusal(movie(gop=100), root, MediaRules(max_frames=2))


def test_decoding_stops_at_its_deadline(movie, root, monkeypatch):
    monkeypatch.setattr(video, "MAX_DECODING_SECONDS", 0.0)
    started = time.monotonic()
    assert "0 seconds of decoding" in refusal(movie(), root)
    assert time.monotonic() - started < 5


def test_large_frames_are_refused_and_middling_ones_scaled_down(movie, root):
    content = movie(size=(320, 240), frames=4)
    assert "320 x 240 pixels; accepted: at most 10000" in refusal(content, root, MediaRules(max_image_pixels=10_000))
    assert load_video(content, root, MediaRules(frame_pixels=4800))[0].shape == (2, 60, 80, 3)


def test_a_film_held_upright_is_turned_as_it_says(movie, root):
    content = bytearray(movie(frames=2))
    matrix = content.index(b"tkhd") + 44
    quarter_right = (0, 1, 0, -1, 0, 0, 0, 0, 1)
    scales = (2**16, 2**16, 2**30) * 3
    content[matrix : matrix + 36] = struct.pack(">9i", *(v * s for v, s in zip(quarter_right, scales, strict=True)))
    upright, flat = load_video(bytes(content), root, RULES)[0], load_video("a.mp4", root, RULES)[0]
    assert upright.shape == (2, 64, 48, 3)
    assert np.array_equal(upright[0], np.rot90(flat[0], -1))


def test_what_is_no_film_is_refused_without_being_tried(root, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for content, said in (
        (b"", "empty, 0 bytes"),
        (
            b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\n" + str(secret).encode(),
            "not a video of an accepted format",
        ),
        (b"ffconcat version 1.0\nfile " + str(secret).encode(), "accepted: MP4, WEBM, Matroska"),
        (bytes(1000), "not a video of an accepted format"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(100), "damaged or truncated"),
    ):
        (tmp_path / "a.mp4").write_bytes(content)
        assert said in refusal("a.mp4", root)
        assert "video 'a.mp4': " in refusal("a.mp4", root)
    assert "a URL" in refusal("https://host/a.mp4", root)
    assert "'..' in a path" in refusal("../a.mp4", root)


def test_sound_without_pictures_is_refused(root, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no video stream" in refusal("a.mp4", root)


def test_a_truncated_film_is_refused_wherever_it_is_cut(movie, root):
    content = movie(frames=100, movflags="faststart", codec="libx264")
    for size in (40, 300, len(content) // 2, len(content) - 50):
        assert "video <" in refusal(content[:size], root)


def test_damaged_films_are_read_or_refused_in_bounded_time(movie, root):
    content = np.frombuffer(movie(), np.uint8)
    rng, started, said = np.random.default_rng(0), time.monotonic(), []
    for _ in range(200):
        broken = content.copy()
        broken[rng.integers(0, len(broken), 8)] = rng.integers(0, 256, 8)
        try:
            assert load_video(broken.tobytes(), root, RULES)[0].ndim == 4
        except BadRow as error:
            said.append(str(error))
    assert 0 < len(said) < 200
    assert not any("\n" in reason for reason in said)
    assert time.monotonic() - started < 60


def test_without_pyav_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match="video files need PyAV: pip install av"):
        load_video(b"", root, RULES)
