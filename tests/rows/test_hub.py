"""Data sets of the hub at one commit. No network is used: the cache on disk is laid out as the hub's client does."""

import hashlib
import json

import huggingface_hub
import pytest
from huggingface_hub import constants

from copd.errors import DataError
from copd.rows.hub import hub_files
from copd.system.hub import commit_of

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put files of a commit into a cache of its own, and turn the network off."""
    commit_of.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(files: dict[str, str], commit=COMMIT):
        repository = tmp_path / "datasets--me--sums"
        for name, content in files.items():
            blob = repository / "blobs" / hashlib.sha256(content.encode()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(content)
            link = repository / "snapshots" / commit / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)

    return put


ROW = json.dumps({"prompt": "1+1?", "answer": "2"})


@pytest.mark.parametrize("given", ["hub:", "hub:sums", "hub:/sums", "hub:me/", "hub:me/sums/"])
def test_a_name_without_owner_or_name_is_refused_with_the_accepted_forms(given):
    with pytest.raises(DataError, match=f"^{given}: accepted: hub:OWNER/NAME or hub:OWNER/NAME/FILE$"):
        hub_files(given, "train", COMMIT)


def test_a_missing_revision_is_refused():
    with pytest.raises(DataError, match="hub:me/sums: revision is missing; give a commit, branch or tag, for instance"):
        hub_files("hub:me/sums", "train", None)


def test_a_branch_is_the_commit_that_the_cache_has_for_it_where_there_is_no_network(cached, tmp_path):
    cached({"train.jsonl": ROW})
    cached({"train.jsonl": "other"}, commit=OTHER)
    with pytest.raises(
        DataError, match=r"^hub:me/sums: revision 'main' of me/sums is not known here, and the hub cannot"
    ):
        hub_files("hub:me/sums", "train", "main")
    (tmp_path / "datasets--me--sums" / "refs").mkdir()
    (tmp_path / "datasets--me--sums" / "refs" / "main").write_text(COMMIT)
    (path,), _ = hub_files("hub:me/sums", "train", "main")
    assert (path.parent.name, path.read_text()) == (COMMIT, ROW)


def test_the_files_of_a_split_are_found_by_their_names(cached):
    cached({"data/train-00000-of-00002.parquet": "a", "data/train-00001-of-00002.parquet": "b", "README.md": "c"})
    cached({"data/dev.jsonl": "d", "test.jsonl": "e", "data/trainer.py": "f"})
    names = {
        split: [path.name for path in hub_files("hub:me/sums", split, COMMIT)[0]]
        for split in ("train", "validation", "test")
    }
    assert names == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "validation": ["dev.jsonl"],
        "test": ["test.jsonl"],
    }


@pytest.mark.parametrize(
    ("split", "others"),
    [
        (
            "train",
            ["train_prefs/test-0.parquet", "trainer/log.jsonl", "data/training_stats.jsonl", "data/trainer.jsonl"],
        ),
        ("validation", ["data/devanagari.parquet", "data/values.jsonl", "develop/test.jsonl"]),
        ("test", ["testament.jsonl", "test/train-0.parquet"]),
    ],
)
def test_files_whose_names_only_begin_alike_are_not_of_the_split(cached, split, others):
    names = [f"{split}-0.parquet", f"{split}.jsonl", f"{split}_1.jsonl", f"{split}2.jsonl", f"{split}.en.jsonl"]
    cached({f"data/{name}": name for name in names} | {other: other for other in others})
    assert [path.name for path in hub_files("hub:me/sums", split, COMMIT)[0]] == sorted(names)


def test_files_of_a_split_in_several_folders_are_refused_with_the_folders_and_one_to_name(cached):
    cached({f"{folder}/train-00000-of-00001.parquet": folder for folder in ("main", "socratic")})
    with pytest.raises(DataError) as refusal:
        hub_files("hub:me/sums", "train", COMMIT)
    assert str(refusal.value) == (
        "hub:me/sums: train has files in the folders main, socratic; name one, such as "
        "hub:me/sums/socratic/train-00000-of-00001.parquet, or a pattern"
    )
    (path,), _ = hub_files("hub:me/sums/main/train-*.parquet", "train", COMMIT)
    assert path.parent.name == "main"


def test_a_file_or_pattern_may_be_named(cached):
    cached({"easy/a.jsonl": "a", "easy/b.jsonl": "b", "hard/a.jsonl": "c"})
    assert [path.name for path in hub_files("hub:me/sums/easy/*.jsonl", "train", COMMIT)[0]] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(DataError, match=rf"commit {COMMIT} has no file nothing.jsonl"):
        hub_files("hub:me/sums/nothing.jsonl", "train", COMMIT)


def test_what_the_cache_holds_of_another_commit_is_not_used(cached):
    cached({"train.jsonl": ROW}, commit=OTHER)
    with pytest.raises(DataError, match=rf"^hub:me/sums: commit {COMMIT} cannot be had: ") as refusal:
        hub_files("hub:me/sums", "train", COMMIT)
    assert "\n" not in str(refusal.value)


def test_paths_start_at_the_commit_and_may_follow_the_links_of_the_cache_but_no_further(cached, tmp_path):
    cached({"train.jsonl": ROW, "images/a.png": "a"})
    _, root = hub_files("hub:me/sums", "train", COMMIT)
    assert root.find("images/a.png").read_text() == "a"
    (tmp_path / "secret").write_text("s")
    (root.folder / "leak").symlink_to(tmp_path / "secret")
    with pytest.raises(Exception, match="leads out of the data root"):
        root.find("leak")


def test_another_commit_than_the_one_asked_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / OTHER))
    with pytest.raises(DataError, match=f"hub:me/sums: the hub gave commit {OTHER} for {COMMIT}"):
        hub_files("hub:me/sums", "train", COMMIT)
