"""The study that makes the README's tables, on run folders of given numbers."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from copd.measure.evaluate import Answers, tabulate
from copd.runs.runlog import read_lines, write_lines

STUDY = str(Path(__file__).parents[2] / "studies" / "demo_table.py")
METHODS = {"mopd_mean": "mopd", "mixed_batch": "mixed"}
PROBLEMS = 200
RIGHT = {"CoPD, merged": range(100), "experts, merged": range(96, 200), "mixed RLVR, K = 3 times the steps": range(130)}
"""Which problems of every capability a model answers right; of the others, all models answer the first 80."""


def answered(model: str, label: str, capability: str) -> Answers:
    greedy_P = torch.zeros(PROBLEMS, dtype=torch.float64)
    greedy_P[list(RIGHT.get(label, range(80)))] = 1
    return Answers(model, capability, f"digest of {capability}", greedy_P, 1, greedy_P.roll(1))


@pytest.fixture
def study(make_run, tmp_path, monkeypatch, capsys):
    """Run the study on eight small runs; gives what it printed."""
    models: dict[str, dict[str, str]] = {}
    defined = runpy.run_path(STUDY)
    for run, labels in defined["MODELS"]:
        models.setdefault(run, {}).update(labels)
    for run, labels in models.items():
        folder = make_run(run, METHODS.get(run, run))
        told = [
            answered(model, label, capability)
            for model, label in labels.items()
            for capability in defined["CAPABILITIES"]
        ]
        table = [cell.as_record() for cell in tabulate(told, (1,))]
        lines = [{**r, "table": table} if r["event"] == "result" else r for r in read_lines(folder / "metrics.jsonl")]
        write_lines(folder / "metrics.jsonl", lines)
        write_lines(folder / "answers.jsonl", [a.as_record() for a in told])

    def run_study(*arguments: str) -> str:
        picture = tmp_path / "demo.svg"
        monkeypatch.setattr(sys, "argv", [STUDY, "--runs", str(tmp_path), "--picture", str(picture), *arguments])
        runpy.run_path(STUDY, run_name="__main__")
        assert picture.read_text().lstrip().startswith("<?xml")
        return capsys.readouterr().out

    return run_study


def row(table: str, label: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_accuracies_rollouts_and_the_sampled_accuracy_of_the_base_are_printed(study):
    said, *_ = study().partition("Difference to")
    assert [cell.split(" ")[0] for cell in row(said, "CoPD, merged")] == ["50.0"] * 4
    assert row(said, "experts, merged")[0].startswith("52.0 [45.1, ")
    assert "Rollouts: copd 64, expert 64, merge_only 64," in said
    assert "Sampled answers of the base: text 40.0 [" in said


def test_differences_to_copds_merge_and_to_the_base_are_paired_and_have_intervals(study):
    _, to_merge, to_base = study().split("Difference to ")
    assert to_merge.startswith("CoPD, merged, points, paired 95 % intervals")
    assert "| CoPD, merged |" not in to_merge
    mixed, merge = row(to_merge, "mixed RLVR, K = 3 times the steps"), row(to_merge, "experts, merged")
    assert [cell.split(" ")[0] for cell in mixed] == ["**+15.0"] * 4
    assert merge[0].startswith("+2.0 [-1")  # 104 right alone, 96 wrong alone
    assert to_base.startswith("base, points")
    assert row(to_base, "CoPD, merged")[3].startswith("**+10.0 [+")


def test_another_reference_can_be_asked_for(study):
    said = study("--against", "text expert")
    assert said.count("Difference to ") == 1
    assert row(said.partition("Difference to text expert")[2], "CoPD, text branch")[0].startswith("+0.0 [-")


def test_the_same_runs_give_the_same_picture_to_the_byte(study, tmp_path):
    study()
    first = (tmp_path / "demo.svg").read_bytes()
    study()
    assert (tmp_path / "demo.svg").read_bytes() == first
