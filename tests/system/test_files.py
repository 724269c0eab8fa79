"""Whole files are replaced at once, and are on disk when they are."""

import os

import pytest
import torch
from safetensors.torch import save_file

from copd.errors import WriteError
from copd.system.files import passing_folder, remove_passing_folders, replace_text, with_usual_modes


def test_a_passing_folder_is_new_and_goes_with_its_block_and_those_of_killed_processes_are_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    with passing_folder(tmp_path) as first, passing_folder(tmp_path) as second:
        (first / "weights").write_bytes(b"x")
        assert first != second
        assert {path.parent for path in (first, second)} == {tmp_path}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / ".passing-left").mkdir()
    remove_passing_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(WriteError, match="nowhere: cannot be written"), passing_folder(tmp_path / "nowhere"):
        pass


def test_a_write_that_fails_leaves_the_old_file_alone_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    replace_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=f"^{path}: cannot be written: No space left on device$"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_is_told_with_the_file(tmp_path, in_small_files):
    """The system's own error has no name in it."""
    script = (
        "from copd.errors import WriteError; from copd.system.files import replace_text\n"
        "small()\n"
        "try: replace_text(path, 'x' * 1000)\n"
        "except WriteError as error: print(error)\n"
    )
    path = tmp_path / "page.html"
    assert in_small_files(script, path) == f"{path}: cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_something_in_the_way_of_the_new_file_is_told_like_a_disk_that_refuses(tmp_path):
    (tmp_path / ".page.html.writing").mkdir()
    with pytest.raises(WriteError, match=f"^{tmp_path / 'page.html'}: cannot be written: "):
        replace_text(tmp_path / "page.html", "new")


def test_contents_are_on_disk_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append("fsync"))
    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("replace") or replaced(*paths))
    replace_text(tmp_path / "page.html", "new")
    assert order == ["fsync", "replace"]
    assert (tmp_path / "page.html").read_text() == "new"


def test_weight_files_get_the_mode_of_any_new_file_here(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "config.json").touch()
    with_usual_modes(tmp_path)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode
