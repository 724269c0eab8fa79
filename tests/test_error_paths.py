"""Errors that no test of their own room reaches, and the study that finds such errors."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from copd.errors import BadRow, CheckpointError, DataError, RecipeError, WriteError
from copd.maths.merge import merge
from copd.model.export import save_policy
from copd.model.lora import LoraSettings
from copd.models import build_base
from copd.runs import media as run_media
from copd.runs.runlog import JsonLines
from copd.tasks import hub, media

STUDY = runpy.run_path(str(Path(__file__).parent.parent / "studies" / "error_paths.py"))


def test_the_study_finds_every_raise_and_tells_those_that_were_not_executed():
    source = 'def f(x):\n    if x:\n        raise ValueError(f"{x}: bad")\n    raise NotImplementedError\n    raise\n'
    found = list(STUDY["raises_of"]("a.py", source))
    assert [tuple(each) for each in found] == [("a.py", 3, "ValueError", "{x}: bad"), ("a.py", 5, "again", "")]
    lines, missed = STUDY["table"](found, {"a.py": {1, 2, 3}})
    assert missed == 1
    assert [line.split(" | ")[-1] for line in lines[2:4]] == ["yes |", "NO |"]


def test_another_commit_than_the_one_asked_of_the_hub_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / ("b" * 40)))
    with pytest.raises(DataError, match=f"hub:me/sums: the hub gave commit {'b' * 40} for {'a' * 40}"):
        hub.hub_files("hub:me/sums", "train", "a" * 40)


def test_lora_without_peft_names_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"lora: needs the package peft; install copd\[lora\]"):
        policy.clone().with_adapter("text", LoraSettings(1, 1.0, ("q_proj",)), 0)


def test_slerp_of_three_branches_is_refused_with_their_number():
    with pytest.raises(ValueError, match="'slerp' merges two branches, found 3"):
        merge([{"w": torch.ones(2)}] * 3, method="slerp", weights=[1.0, 1.0, 1.0])


def test_a_file_beyond_the_bound_is_refused_with_the_bound(tmp_path):
    with (tmp_path / "film.mp4").open("wb") as file:
        os.truncate(file.fileno(), media.MAX_FILE_BYTES + 1)
    with pytest.raises(BadRow, match=f"larger than {media.MAX_FILE_BYTES} bytes"):
        media.DataRoot.at(tmp_path).open("film.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_record_on_a_full_disk_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"/dev/full: cannot be written: .*No space left"):
        JsonLines(Path("/dev/full")).write({"step": 1})


def test_a_picture_beyond_the_bound_is_refused_with_the_bound(tmp_path):
    with pytest.raises(BadRow, match=f"larger than {media.MAX_IMAGE_BYTES} bytes"):
        media.load_image(bytes(media.MAX_IMAGE_BYTES + 1), media.DataRoot.at(tmp_path), media.MediaRules())


def test_a_base_is_not_built_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(RecipeError, match=f"{tmp_path}: is not empty; give another folder"):
        build_base(tmp_path, conflict=1.0, steps=1)


def test_a_sample_picture_whose_folder_is_a_file_is_named(tmp_path):
    (tmp_path / run_media.MEDIA).touch()
    with pytest.raises(CheckpointError, match=r"\.png: cannot be written"):
        run_media._keep(tmp_path, np.zeros((8, 8, 3), np.uint8))


def test_an_adapter_whose_file_is_a_folder_is_named(policy, tmp_path):
    (tmp_path / "adapter" / "adapter_config.json").mkdir(parents=True)
    branch = policy.clone().with_adapter("text", LoraSettings(1, 1.0, ("q_proj",)), 0)
    with pytest.raises(WriteError, match=f"{tmp_path}: the adapter cannot be written: "):
        save_policy(branch, tmp_path, "# card\n")
