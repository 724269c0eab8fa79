"""Hostile files, all real: `copd data check` and `copd train` give the same answer."""

import gzip
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media_files import encoded, film, matroska
from PIL import Image

from copd.assemble.assembled import load_policy
from copd.assemble.preflight import check_prompts
from copd.assemble.tasks import make_tasks
from copd.recipe.reading import make_recipe
from copd.runs.runlog import read_lines
from copd.types import Split

SOUND = [{"id": i, "prompt": f"sum: {i} {i}", "answer": 2 * i} for i in range(3)]
PICTURE = Image.linear_gradient("L").resize((40, 20)).convert("RGB")
TURNED = Image.Exif()
TURNED[0x0112] = 6
SIXTEEN_BITS = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64)

pytestmark = pytest.mark.usefixtures("undrawn")


def asked(**columns) -> str:
    """A line that is sound but for these columns."""
    return json.dumps({"id": 9, "prompt": "sum: 9 9", "answer": 18} | columns)


def black(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)))


def picture(content: bytes, name: str = "a.png") -> tuple[str, Callable[[Path], object]]:
    """A line that shows a picture, and what puts that beside it."""
    return asked(images=[name]), lambda folder: (folder / name).write_bytes(content)


def movie(content: bytes = b"", **how) -> tuple[str, Callable[[Path], object]]:
    """The same of a film, of this content or made so."""

    def write(folder: Path) -> None:
        pytest.importorskip("av", reason="av is not installed: pip install av")
        if how:
            film(folder / "a.mp4", **how)
        else:
            (folder / "a.mp4").write_bytes(content)

    return asked(videos=["a.mp4"]), write


def line(text: str | bytes) -> tuple[str | bytes, Callable[[Path], object]]:
    return text, lambda folder: None


def link(target: str) -> tuple[str, Callable[[Path], object]]:
    return asked(images=["a.png"]), lambda folder: (folder / "a.png").symlink_to(target)


def half_a_film(folder: Path) -> None:
    pytest.importorskip("av", reason="av is not installed: pip install av")
    content = film(folder / "a.mp4")
    (folder / "a.mp4").write_bytes(content[: len(content) // 2])


BAD_ROWS = {
    "a line cut short": (*line('{"prompt": "?", "answer'), "not JSON: Unterminated string"),
    "NaN": (*line('{"prompt": "?", "answer": NaN}'), "not JSON: NaN is not a JSON value"),
    "another encoding": (*line('{"prompt": "é", "answer": 1}'.encode("latin-1")), "not UTF-8 at byte 13"),
    "a list": (*line("[1, 2]"), "a list; accepted: a JSON object"),
    "a missing column": (
        *line(asked().replace("answer", "result")),
        "answer is missing; columns are id, prompt, result",
    ),
    "a misspelt column": (*line(asked(imagess=["a.png"])), "unknown column 'imagess'; did you mean 'images'?"),
    "null": (*line(asked(answer=None)), "answer is null"),
    "a prompt of the wrong type": (*line(asked(prompt=7)), "the prompt is of type int; accepted: a text or a list"),
    "an answer of the wrong type": (*line(asked(answer=[18])), "the answer is a list; accepted: a text or a number"),
    "media of the wrong type": (*line(asked(images="a.png")), "images is a text; accepted: a list"),
    "an id given twice": (*line(asked(id=0)), "has the id of f.jsonl:1"),
    "code for a verifier": (*line(asked(verifier="os.system")), "unknown verifier 'os.system'; accepted: "),
    "a mark without a picture": (*line(asked(prompt="<image> sum: 9 9")), "1 <image> in the prompt but 0 images"),
    "two marks for one picture": (
        asked(prompt="<image> sum: <image>", images=["a.png"]),
        picture(encoded(PICTURE))[1],
        "2 <image> in the prompt but 1 images",
    ),
    "a way up": (*line(asked(images=["../../etc/passwd"])), "image '../../etc/passwd': '..' in a path"),
    "an absolute path": (*line(asked(images=["/etc/passwd"])), "image '/etc/passwd': an absolute path"),
    "a URL": (*line(asked(images=["https://host/a.png"])), "image 'https://host/a.png': a URL"),
    "a film's URL": (*line(asked(videos=["file:///etc/passwd"])), "video 'file:///etc/passwd': a URL"),
    "a link out of the root": (*link("/etc/passwd"), "a link that leads out of the data root"),
    "a link to a device": (*link("/dev/zero"), "a link that leads out of the data root"),
    "a pipe": (asked(images=["a.png"]), lambda folder: os.mkfifo(folder / "a.png"), "not a regular file"),
    "no file": (*line(asked(images=["a.png"])), "image 'a.png': not found in"),
    "a bomb": (*picture(black(9000, 9000)), "9000 x 9000 pixels; accepted: at most 67108864 (media.max_image_pixels)"),
    "a larger bomb": (*picture(black(20_000, 20_000)), "20000 x 20000 pixels; accepted: at most 67108864 (media."),
    "0 bytes": (*picture(b""), "image 'a.png': empty, 0 bytes"),
    "a picture cut short": (*picture(encoded(PICTURE)[:-30]), "image 'a.png': damaged or truncated"),
    "a GIF by the name of a PNG": (*picture(encoded(PICTURE, "GIF")), "not a picture of an accepted format"),
    "an animated picture": (
        *picture(encoded(PICTURE, save_all=True, append_images=[Image.new("RGB", (40, 20))])),
        "animated; accepted: a still picture",
    ),
    "1 x 1": (*picture(black(1, 1)), "1 x 1 pixels; accepted: sides of at least 4"),
    "100000 x 1": (*picture(black(100_000, 1)), "100000 x 1 pixels; accepted: sides of at least 4"),
    "a film of 0 bytes": (*movie(b""), "video 'a.mp4': empty, 0 bytes"),
    "a film of no frames": (*movie(matroska(frames=0)), "video 'a.mp4': a video of no frames"),
    "a film without time stamps": (*movie(matroska(frames=3)), "video 'a.mp4': a frame without a time stamp"),
    "a film cut short": (asked(videos=["a.mp4"]), half_a_film, "video 'a.mp4': damaged or truncated"),
    "a playlist by the name of a film": (*movie(b"#EXTM3U\n/etc/passwd\n"), "not a video of an accepted format"),
    "a film of an hour": (
        *movie(frames=3600, rate=1, size=(16, 16), gop=5000),
        "3600 seconds; accepted: at most 1800 (media.max_video_seconds)",
    ),
    "frames of no number": (*line(asked(videos=[[]])), "videos[0] holds no frames"),
}
"""By what is wrong with it: a line, what puts files beside it, and a part of the reason."""

SOUND_ROWS = {
    "another column": line(asked(level="hard", note=None)),
    "a PNG by the name of a JPEG": picture(encoded(PICTURE), "a.jpg"),
    "CMYK": picture(encoded(Image.new("CMYK", (40, 20), (0, 255, 255, 0)), "JPEG"), "a.jpg"),
    "16 bits": picture(encoded(SIXTEEN_BITS)),
    "turned by its EXIF": picture(encoded(PICTURE, "JPEG", exif=TURNED), "a.jpg"),
    "a film of one frame": movie(frames=1),
    "a film of varying rate": movie(frames=5, ticks=[0, 1, 2, 30, 31]),
}


def packed(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../f.jsonl", content)
    return file.getvalue()


def taped(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("../../f.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


ROWS = "\n".join(map(json.dumps, SOUND)).encode()
BAD_FILES = {
    "0 bytes": (b"", "f.jsonl: empty, 0 bytes"),
    "empty lines": (b"\n\r\n \n", "f.jsonl: no line in it holds a row"),
    "a list that is cut off": (json.dumps(SOUND).encode()[:-1], "f.jsonl:1: no comma or end of the list"),
    "a column missing everywhere": (
        ROWS.replace(b'"answer"', b'"result"'),
        "f.jsonl: no format fits the columns id, prompt, result",
    ),
    "UTF-16": (ROWS.decode().encode("utf-16"), "f.jsonl: is UTF-16; save it as UTF-8"),
    "a zip archive": (packed(ROWS), "f.jsonl: is a zip archive; unpack it first"),
    "a tar archive": (taped(ROWS), "f.jsonl: is a tar archive; unpack it first"),
    "gzip": (gzip.compress(ROWS), "f.jsonl: is compressed with gzip; unpack it first"),
}


def recipe_of(file: str = "f.jsonl", measured: int = len(SOUND), steps: int = 1, **task) -> dict:
    """Steps on rows that are training, validation and test rows in one, where `task` gives no others."""
    rows = dict.fromkeys(("train", "validation", "test"), file)
    return {
        "model": {"dtype": "float32", "device": "cpu"},
        "method": "expert",
        "branches": {"rows": {"task": {"kind": "rows", "verifier": "integer"} | rows | task}},
        "schedule": {"cycles": 1, "rl_steps": steps, "opd_steps": 0},
        "sampling": {"prompts_per_step": 2, "rollouts_per_prompt": 2, "max_new_tokens": 4},
        "evaluation": {"problems": measured, "validation_problems": 1, "behaviour_problems": 1},
    }


@pytest.fixture
def trained(command, tmp_path) -> Callable:
    """`copd train` of a recipe in the folder of the files, into `run`."""

    def train(**settings):
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe_of(**settings)))
        return command("train", "recipe.yaml", "--out", "run")

    return train


@pytest.fixture(scope="module")
def base():
    return load_policy(make_recipe(recipe_of()))


def left_out(base, **task) -> int:
    """Rows that training leaves out at its start, where it may."""
    tasks = make_tasks(make_recipe(recipe_of(**task)))
    check_prompts(base, tasks, 4)
    return tasks["rows"].skipped


def write(folder: Path, text: str | bytes, beside: Callable[[Path], object]) -> None:
    """A sound row, this line, and two sound rows."""
    first, *rest = (json.dumps(row).encode() for row in SOUND)
    (folder / "f.jsonl").write_bytes(b"\n".join([first, text.encode() if isinstance(text, str) else text, *rest]))
    beside(folder)


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_told_by_the_check_and_stops_training_with_the_same_words(command, trained, tmp_path, base, fault):
    text, beside, said = BAD_ROWS[fault]
    write(tmp_path, text, beside)
    checked = command("data", "check", "f.jsonl")
    told, summary, *_ = checked.stdout.splitlines()
    assert (checked.returncode, checked.stderr) == (1, "")
    assert told.startswith("f.jsonl:2: ")
    assert said in told
    assert " rows, 1 bad" in summary
    refused = trained()
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {told}")
    assert not (tmp_path / "run").exists()
    assert left_out(base, bad_rows="skip") == 1


@pytest.mark.parametrize("what", SOUND_ROWS)
def test_an_odd_row_is_sound_to_the_check_and_to_training(command, tmp_path, base, what):
    write(tmp_path, *SOUND_ROWS[what])
    checked = command("data", "check", "f.jsonl")
    assert (checked.returncode, checked.stdout.count("4 rows, 0 bad")) == (0, 1)
    assert left_out(base) == 0


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_windows_files_are_sound_to_the_check_and_to_training(command, tmp_path, base, start, end):
    (tmp_path / "f.jsonl").write_bytes(start + ROWS.replace(b"\n", end) + end)
    checked = command("data", "check", "f.jsonl")
    assert (checked.returncode, checked.stdout.count("3 rows, 0 bad")) == (0, 1)
    assert left_out(base) == 0


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_a_mistake_to_the_check_and_to_training_under_any_policy(
    command, trained, tmp_path, fault, policy
):
    content, said = BAD_FILES[fault]
    (tmp_path / "f.jsonl").write_bytes(content)
    checked, refused = command("data", "check", "f.jsonl"), trained(bad_rows=policy)
    assert (checked.returncode, refused.returncode) == (2, 2)
    told = re.sub(r"branches\.rows\.task\.\w+: ", "", refused.stderr).splitlines()
    assert {line.removeprefix("error:").strip() for line in told} == {checked.stderr.removeprefix("error:").strip()}
    assert checked.stderr.startswith(f"error: {said}")
    assert [path.name for path in tmp_path.iterdir() if path.name != "recipe.yaml"] == ["f.jsonl"]


def test_a_row_of_parquet_too_large_to_unpack_is_a_bad_row_to_both(command, trained, tmp_path, base):
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    times = 1_000_000
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * times, pyarrow.int32()), pyarrow.array(["x" * 2**20])
    )
    notes = pyarrow.ListArray.from_arrays(pyarrow.array([0, 0, times, times, times]), text)
    table = {"prompt": [f"sum: {i} {i}" for i in range(4)], "answer": [2 * i for i in range(4)], "note": notes}
    parquet.write_table(pyarrow.table(table), tmp_path / "f.parquet", store_schema=False)
    assert (tmp_path / "f.parquet").stat().st_size < 200_000
    checked = command("data", "check", "f.parquet")
    told, *_ = checked.stdout.splitlines()
    assert (checked.returncode, told) == (1, "f.parquet:2: a row of 1048576000017 bytes; accepted: at most 67108864")
    refused = trained(file="f.parquet")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {told}")
    assert not (tmp_path / "run").exists()
    assert left_out(base, file="f.parquet", bad_rows="skip") == 1


def test_a_parquet_file_that_declares_too_much_is_a_mistake_to_both(command, trained, tmp_path):
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    many = 2**26 + 1
    nulls = pyarrow.ListArray.from_arrays(pyarrow.array([0, many]), pyarrow.nulls(many))
    table = pyarrow.table({"prompt": ["sum: 1 1"], "answer": [2], "note": nulls})
    parquet.write_table(table, tmp_path / "f.parquet")
    checked, refused = command("data", "check", "f.parquet"), trained(file="f.parquet", bad_rows="skip")
    assert (checked.returncode, refused.returncode) == (2, 2)
    assert checked.stderr == refused.stderr
    assert checked.stderr.startswith("error: f.parquet: row group 0 of column note")
    assert not (tmp_path / "run").exists()


def test_a_prompt_longer_than_the_context_is_a_bad_row_to_training_which_alone_has_a_model(
    command, trained, tmp_path, base
):
    write(tmp_path, asked(prompt="1 " * 400), lambda folder: None)
    assert command("data", "check", "f.jsonl").returncode == 0
    refused = trained()
    assert refused.returncode == 2
    assert "error: f.jsonl:2: the prompt has " in refused.stderr
    assert not (tmp_path / "run").exists()
    assert left_out(base, bad_rows="skip") == 1


def test_a_run_among_bad_rows_of_every_kind_counts_each_and_learns_from_the_others(command, trained, tmp_path):
    first, *rest = (json.dumps(row).encode() for row in SOUND)
    for number, (text, beside, *_) in enumerate([*BAD_ROWS.values(), *SOUND_ROWS.values()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        beside(folder)
        text = (text.encode() if isinstance(text, str) else text).replace(b'"id": 9', b'"id": %d' % (100 + number))
        rest.append(re.sub(rb'"(a\.\w+)"', rb'"%d/\1"' % number, text))
    (tmp_path / "f.jsonl").write_bytes(b"\n".join([first, *rest]))
    bad, sound = len(BAD_ROWS), len(SOUND) + len(SOUND_ROWS)
    checked = command("data", "check", "f.jsonl")
    assert checked.returncode == 1
    assert len([line for line in checked.stdout.splitlines() if line.startswith("f.jsonl:")]) == bad
    assert f"{bad + sound} rows, {bad} bad" in checked.stdout
    refused = trained(measured=sound, bad_rows="skip", max_bad_rows=bad - 1)
    assert refused.returncode == 2
    assert f"this is bad row {bad}, and max_bad_rows is {bad - 1};" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = trained(measured=sound, bad_rows="skip", max_bad_rows=bad)
    assert done.returncode == 0
    assert f"branches.rows.task: bad rows left out: {bad};" in " ".join(done.stdout.split())
    (result,) = (each for each in read_lines(tmp_path / "run" / "metrics.jsonl") if each["event"] == "result")
    assert {cell["problems"] for cell in result["table"]} == {sound}


@pytest.mark.parametrize(("policy", "status"), [("error", 2), ("skip", 0)])
def test_a_damaged_picture_drawn_late_ends_the_run_in_the_words_of_the_check_or_is_counted(
    command, trained, tmp_path, policy, status
):
    rows = [{"id": i, "prompt": "sum: 1 1", "answer": 2, "images": [f"{i}.png"]} for i in range(20)]
    for row in rows:
        (tmp_path / row["images"][0]).write_bytes(encoded(PICTURE))
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sound.jsonl").write_bytes(ROWS)
    how = {"validation": "sound.jsonl", "test": "sound.jsonl", "bad_rows": policy, "steps": 5}
    assert command("data", "check", "f.jsonl").returncode == 0
    drawn_late = int(make_tasks(make_recipe(recipe_of(**how)))["rows"].problem(Split.TRAIN, 9).id)
    (tmp_path / f"{drawn_late}.png").write_bytes(b"")
    told, *_ = command("data", "check", "f.jsonl").stdout.splitlines()
    assert told == f"f.jsonl:{drawn_late + 1}: image '{drawn_late}.png': empty, 0 bytes"
    done = trained(**how)
    assert done.returncode == status
    assert (told in done.stderr) == (policy == "error")
    assert ("bad rows left out: 1;" in " ".join(done.stdout.split())) == (policy == "skip")
    updates = [each for each in read_lines(tmp_path / "run" / "metrics.jsonl") if each["event"] == "update"]
    assert len(updates) == (4 if policy == "error" else 5)
