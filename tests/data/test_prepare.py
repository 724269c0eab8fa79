"""`copd data prepare` on files in the shapes of the paper's sets, hostile rows among them."""

import json
import runpy
from pathlib import Path

import pytest
from huggingface_hub import constants

from copd.data.check import check_file
from copd.data.prepare import prepare
from copd.errors import DataError
from copd.sets.overlap import Overlap
from copd.system.hub import commit_of

pytest.importorskip("av")
pytest.importorskip("pyarrow")

STAND_INS = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "paper" / "stand_ins.py"))
VIDEO_SOURCES = {
    "onethinker": "onethinker_rl_train.json",
    "video_r1": "Video-R1-260k.json",
    "videochat_r1": "nextgqa_val.json",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The stand-ins for all sets."""
    folder = tmp_path_factory.mktemp("sets")
    STAND_INS["write_sets"](folder)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "folder"), [("polaris", "polaris"), ("mmfinereason", "mmfinereason")])
def test_every_hostile_row_of_a_set_is_left_out_and_counted(sets, tmp_path, name, folder):
    aime = prepare("aime24", [str(sets / "aime24")], tmp_path)
    made = prepare(name, [str(sets / folder)], tmp_path, without=[str(aime.file)])
    hostile = STAND_INS["HOSTILE"][name]
    assert made.read == STAND_INS["ROWS"] + hostile
    assert made.written == len(rows_of(made.file)) == STAND_INS["ROWS"]
    assert sum(made.left_out.values()) == hostile


@pytest.mark.parametrize("part", VIDEO_SOURCES)
def test_every_hostile_row_of_a_set_of_videos_is_left_out(sets, tmp_path, part):
    source = sets / "videos" / VIDEO_SOURCES[part]
    made = prepare("video40k", [str(source)], tmp_path)
    assert sum(made.left_out.values()) == STAND_INS["HOSTILE"][part]
    assert made.written == len(json.loads(source.read_text())) - STAND_INS["HOSTILE"][part]


@pytest.mark.parametrize(
    ("name", "folder"), [("polaris", "polaris"), ("mmfinereason", "mmfinereason"), ("video40k", "videos")]
)
def test_the_rows_of_a_prepared_set_are_sound(sets, tmp_path, name, folder):
    made = prepare(name, [str(sets / folder)], tmp_path)
    said: list[str] = []
    (report,) = check_file(str(made.file), said.append, root=made.data_root and str(made.data_root))
    assert (report.bad, report.rows, said) == (0, made.written, [])
    assert set(report.notes) <= {"the column options is put below the question, which does not show it"}


def test_videos_of_several_folders_start_in_the_folder_that_holds_all(sets, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "nextgqa_val.json").write_text((sets / "videos" / "nextgqa_val.json").read_text())
    (moved / "films").symlink_to(sets / "videos" / "films")
    films = sets / "videos"
    with pytest.raises(DataError, match="no row is left"):  # the link leads out of its folder
        prepare("video40k", [str(moved / "nextgqa_val.json")], tmp_path / "out")
    made = prepare("video40k", [str(moved / "nextgqa_val.json")], tmp_path / "out", media=films)
    assert made.data_root == films
    assert rows_of(made.file)[0]["videos"] == ["films/50.mp4"]


def test_equal_pictures_are_written_once(sets, tmp_path):
    made = prepare("zerobench_sub", [str(sets / "zerobench")], tmp_path)
    paths = [path for row in rows_of(made.file) for path in row["images"]]
    assert len(paths) > len(set(paths)) == 1 == len([*(tmp_path / "media").rglob("*.png")])


def test_the_card_names_licence_sources_and_counts(sets, tmp_path):
    made = prepare("polaris", [str(sets / "polaris")], tmp_path)
    card = made.file.with_suffix(".md").read_text()
    for told in (
        "Licence: apache-2.0",
        "Published as: POLARIS-Project/Polaris-Dataset-53K",
        "polaris-data-53K.jsonl, sha256 ",
        "| rows read | 67 |",
        "| rows written | 61 |",
        "jsonl:66: no single answer",
    ):
        assert told in card


def test_a_test_with_missing_problems_says_that_its_score_is_another(sets, tmp_path, command):
    done = command("data", "prepare", "math500", str(sets / "math500"), "--out", str(tmp_path))
    assert "MATH-500 has 500 problems; a score on 40 is not a score on it" in done.stdout


def test_an_earlier_preparation_is_never_overwritten(sets, tmp_path):
    made = prepare("aime24", [str(sets / "aime24")], tmp_path)
    before = made.file.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        prepare("aime24", [str(sets / "aime25")], tmp_path)
    assert made.file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "sources", "why"),
    [
        ("polaris", ["none.jsonl"], "none.jsonl: no such file"),
        ("polaris", ["empty"], "empty: holds no file named .jsonl"),
        ("polaris", ["other.jsonl"], "no shape fits the columns a: Polaris has answer, difficulty, problem"),
        ("polaris", ["left.jsonl"], "polaris: no row is left"),
        ("video40k", [], "video40k: give its files; the set is published as OneThink/OneThinker-train-data"),
        ("polaris", [], "revision is missing; give a commit, branch or tag"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path, monkeypatch, name, sources, why):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("other.jsonl").write_text('{"a": 1}\n')
    Path("left.jsonl").write_text('{"problem": "Prove that 1=1.", "answer": "1", "difficulty": "1/8"}\n')
    with pytest.raises(DataError, match=why):
        prepare(name, sources, Path("out"))
    assert not [*Path().glob("out/*")]


SUM = {"problem": "What is {}+1?", "answer": "{}", "difficulty": "1/8"}


def sums_in(path, first, count=2):
    rows = [{name: text.format(first + i) for name, text in SUM.items()} for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_files_of_one_name_have_different_ids(tmp_path):
    given = [sums_in(tmp_path / part / "test.jsonl", first) for part, first in (("one", 1), ("two", 10))]
    made = prepare("polaris", given, tmp_path / "out")
    assert [row["id"] for row in rows_of(made.file)] == [
        "one/test.jsonl:1",
        "one/test.jsonl:2",
        "two/test.jsonl:1",
        "two/test.jsonl:2",
    ]


def test_pictures_by_path_in_parquet_are_found_in_the_folder_of_media(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "1.png").write_bytes(b"any")
    rows = [{"problem": "<image>How many?", "answer": "2", "images": ["1.png"]}]
    STAND_INS["write_parquet"](tmp_path / "sets" / "train.parquet", rows)
    made = prepare("mmfinereason", [str(tmp_path / "sets")], tmp_path / "out", media=pictures)
    assert (made.data_root, rows_of(made.file)[0]["images"]) == (tmp_path, ["pictures/1.png"])


def test_a_row_never_loses_its_video_in_silence(tmp_path):
    row = {"data_type": "video", "problem_type": "numerical", "options": [], "answer": "1", "problem": "How many?"}
    (tmp_path / "a.png").write_bytes(b"any")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"videos": [["a.png", "a.png"]]}) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: a video is given as frames; accepted: a path"):
        prepare("video40k", [str(tmp_path / "rows.jsonl")], tmp_path / "out")


def test_sound_is_no_picture_though_its_file_begins_alike(tmp_path):
    picture = {"bytes": b"RIFF\0\0\0\0WAVEfmt ", "path": None}
    STAND_INS["write_parquet"](tmp_path / "x.parquet", [{"question": "How many?", "answer": "2", "image": picture}])
    with pytest.raises(DataError, match="<16 bytes>: not a picture of an accepted format"):
        prepare("mmfinereason", [str(tmp_path / "x.parquet")], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"media": Path("nowhere")}, "--media nowhere: no such folder"),
        ({"revision": "main"}, "--revision main: no source is of the hub"),
        ({"without": ["bad.jsonl"]}, "--without bad.jsonl: no row of it is sound; the first: bad.jsonl:1: the prompt"),
        ({"out": Path("bad.jsonl")}, "--out bad.jsonl: cannot be a folder: File exists"),
        ({"out": Path("bad.jsonl/deeper")}, "--out bad.jsonl/deeper: cannot be a folder: Not a directory"),
    ],
    ids=["media", "revision", "without", "out", "below"],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, monkeypatch, options, why):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "", "answer": "1"}\n')
    given = [sums_in(Path("rows.jsonl"), 1)]
    with pytest.raises(DataError, match=why):
        prepare("polaris", given, **{"out": Path("out"), **options})
    assert not Path("out").exists()


def test_bad_rows_of_a_test_are_told_since_no_question_is_compared_with_them(tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "What is 1+1?", "answer": "1"}\n{"prompt": "", "answer": "1"}\n')
    made = prepare("polaris", [sums_in(tmp_path / "rows.jsonl", 1)], tmp_path / "out", without=[str(test)])
    told = f"--without: 1 of 2 rows are bad and compared with nothing: {test}:2: the prompt is empty"
    assert made.written == 1
    assert f"  {told}" in made.lines()
    assert told in made.file.with_suffix(".md").read_text()


def test_two_preparations_at_once_never_mix_their_rows(tmp_path, monkeypatch):
    given = [sums_in(tmp_path / "rows.jsonl", 1)]
    write = Overlap.has_part_of

    def other_first(*asked):
        monkeypatch.setattr(Overlap, "has_part_of", write)
        prepare("polaris", given, tmp_path / "out")
        return write(*asked)

    monkeypatch.setattr(Overlap, "has_part_of", other_first)
    with pytest.raises(DataError, match="exists already"):
        prepare("polaris", given, tmp_path / "out")
    assert len(rows_of(tmp_path / "out" / "polaris.jsonl")) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["polaris.jsonl", "polaris.md"]


def test_the_card_names_the_commit_that_a_branch_of_the_hub_stood_for(tmp_path, monkeypatch):
    commit_of.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "cache" / "datasets--POLARIS-Project--Polaris-Dataset-53K", "a" * 40
    sums_in(repository / "snapshots" / commit / "polaris-data-53K.jsonl", 1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    made = prepare("polaris", [], tmp_path / "out", revision="main")
    given = "hub:POLARIS-Project/Polaris-Dataset-53K/*: polaris-data-53K.jsonl"
    assert f"- Source: {given}, commit {commit}, sha256 " in made.file.with_suffix(".md").read_text()
