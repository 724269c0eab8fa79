"""Errors that no test of their own room reaches, and the study that finds such errors."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from copd.errors import BadRow, DataError, RecipeError
from copd.maths.merge import merge
from copd.model.lora import LoraSettings
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
