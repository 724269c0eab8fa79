"""Warnings of the guards in a whole run: on the screen, in the record, in the report, and the same after a resume."""

import io
import json
import shutil

import pytest
from rich.console import Console

from copd.commands.train import train
from copd.errors import CheckpointError
from copd.recipe.reading import load_recipe
from copd.report.reading import read_run
from copd.runs.runlog import read_lines
from copd.runs.screen import Screen

CUT = [
    "backend=local",
    "model.threads_per_branch=1",
    "branches={text: {task: {kind: digits, capability: text}}}",
    "schedule={cycles: 1, rl_steps: 12, opd_steps: 0}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 2}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [1]}",
    "checkpoint={every_steps: 6, keep_last: 9}",
]
"""Every response is truncated, so that none is right: two silent failures."""

pytestmark = pytest.mark.usefixtures("undrawn")


def trained(folder, **options):
    said = io.StringIO()
    train(load_recipe("demo-paper", CUT), folder, screen=Screen(Console(file=said, width=400)), **options)
    return said.getvalue()


def record(folder):
    clocks = ("seconds", "tokens_per_second", "critical_path", "save_seconds", "between_saves_seconds", "spent", "seen")
    return [{k: v for k, v in line.items() if k not in clocks} for line in read_lines(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def truncated_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truncated") / "run"
    return folder, trained(folder)


def test_what_fails_silently_is_said_on_the_screen_and_in_the_record(truncated_run):
    folder, said = truncated_run
    found = [(line["step"], line["guard"], line.get("branch")) for line in record(folder) if line["event"] == "warning"]
    assert found == [(-1, "length", None), (9, "length", "text"), (9, "reward", "text")]
    assert "warning: after step 10: branch text: nothing to learn in 10 steps: no response is right" in said
    assert "warning: after step 10: branch text, native: 100% of the last responses were truncated" in said


def test_a_resumed_run_warns_as_one_that_was_never_stopped(truncated_run, tmp_path, stopped):
    """The guards look back beyond the checkpoint, at updates that the resumed process has not made."""
    folder = tmp_path / "run"
    shutil.copytree(truncated_run[0], folder)
    stopped(folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000012")
    said = trained(folder, resume=True)
    assert record(folder) == record(truncated_run[0])
    assert "nothing to learn in 10 steps" in said
    assert "of the base's responses" not in said, "what was said before is not said again"


def test_a_record_that_is_no_record_is_not_resumed(truncated_run, tmp_path, stopped):
    folder = tmp_path / "run"
    shutil.copytree(truncated_run[0], folder)
    stopped(folder)
    first, rest = (folder / "metrics.jsonl").read_bytes().split(b"\n", 1)
    (folder / "metrics.jsonl").write_bytes(b'{"event": "update"}'.ljust(len(first)) + b"\n" + rest)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: damaged, cannot resume: 'branch' is missing"):
        trained(folder, resume=True)


def test_every_checkpoint_is_noted_with_size_and_time(truncated_run):
    folder, _ = truncated_run
    saves = list(read_lines(folder / "checkpoints.jsonl"))
    assert [save["steps_done"] for save in saves] == [6, 12]
    for save in saves:
        files = (folder / "checkpoints" / f"step-{save['steps_done']:08d}").iterdir()
        assert save["bytes"] == sum(file.stat().st_size for file in files)
        assert save["save_seconds"] > 0
    (ledger,) = read_run(folder).events("ledger")
    assert ledger["save_seconds"] == pytest.approx(sum(save["save_seconds"] for save in saves), abs=0.01)


def test_the_report_lists_the_warnings(truncated_run):
    page = (truncated_run[0] / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="warnings">Warnings</h2>' in page
    assert page.count("nothing to learn in 10 steps") == 1


def test_a_warning_is_one_line_of_json(truncated_run):
    lines = (truncated_run[0] / "metrics.jsonl").read_text().splitlines()
    (first, *_) = [json.loads(line) for line in lines if '"event": "warning"' in line]
    assert set(first) == {"event", "step", "seconds", "guard", "message"}
