"""A run in which everything that a recipe may name is the user's own: tasks, rewards, merge, tracker, kind of model."""

import json
import re
import subprocess
import sys

import pytest
import torch
from records import events
from safetensors.torch import load_file

import copd
from copd.commands.export import export
from copd.errors import CheckpointError, ModelFolderError, RecipeError
from copd.system.files import sha256

pytestmark = pytest.mark.usefixtures("undrawn")

FILE = """
import json
from pathlib import Path

from copd.compute.family import QwenVL
from copd.types import Problem

HERE = Path(__file__).parent


class Sums:
    def __init__(self, step: int, seed: int):
        self.step, self.seed = step, seed

    def problem(self, split, index):
        first = 3 * index + len(split.value) * 1000
        return Problem(f"{split.value}-{index}", "sums", f"sum: {first} {self.step}", str(first + self.step), "integer")


def brevity(response, answer):
    return 1 - len(response) / 1000


def first_branch(name, branches, base):
    assert base is not None and base.shape == branches[0].shape
    return branches[0]


class Lines:
    def __init__(self, folder, first_step, recipe):
        self.file = HERE / "lines.jsonl"

    def log(self, step, numbers):
        with self.file.open("a") as file:
            file.write(json.dumps([step, numbers]) + "\\n")

    def close(self):
        with self.file.open("a") as file:
            file.write("[]\\n")


class Mine(QwenVL):
    def _encode(self, problems):
        (HERE / "seen").touch()
        return super()._encode(problems)
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def recipe_of(mine, **changes):
    task = {"kind": "python", "source": f"{mine}:Sums"}
    branches = {
        name: {"task": {**task, "arguments": {"step": step}}, "rewards": {"short": 0.5}}
        for name, step in (("ones", 1), ("twos", 2))
    }
    return {
        "model": {"family": f"{mine}:Mine", "device": "cpu"},
        "branches": branches,
        "verifiers": {"short": f"{mine}:brevity"},
        "merge": {"method": f"{mine}:first_branch"},
        "trackers": [f"{mine}:Lines"],
        "schedule": {"cycles": 1, "rl_steps": 1, "opd_steps": 1},
        "sampling": {"prompts_per_step": 1, "rollouts_per_prompt": 2, "max_new_tokens": 8},
        "opd": {"prompts_per_step": 1, "rollouts_per_prompt": 1},
        "evaluation": {"problems": 2, "validation_problems": 1, "behaviour_problems": 1, "pass_at": []},
        **changes,
    }


@pytest.mark.parametrize("backend", ["local", pytest.param("processes", marks=pytest.mark.slow)])
def test_all_that_a_recipe_names_of_the_user_s_is_used_hashed_and_checked_on_resume(mine, tmp_path, backend):
    run = copd.train(recipe_of(mine, backend=backend), tmp_path / "run", quiet=True)
    manifest = json.loads((run / "manifest.json").read_text())
    names = ("Sums", "brevity", "first_branch", "Lines", "Mine")
    assert manifest["code_sha256"] == {f"{mine}:{name}": sha256(mine) for name in names}
    merged, first = (load_file(path / "model.safetensors") for path in (run.merged, run.branches["ones"]))
    assert all(torch.equal(merged[name], first[name]) for name in merged)
    assert (tmp_path / "seen").exists()
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines[-1] == []
    assert any("update/ones/native/reward" in line[1] for line in lines[:-1])
    rewards = [update["native/reward"] for update in events(run, "update") if "native/reward" in update]
    assert rewards
    assert all(reward == 0 or reward > 0.4 for reward in rewards)
    mine.write_text(FILE + "\n")
    with pytest.raises(CheckpointError, match=r"cannot resume: code_sha256.*:Sums was '[0-9a-f]{64}' and is now"):
        copd.train(recipe_of(mine, backend=backend), run, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match=r"model.family: .*mine.py is not the file that the run began with"):
        export(run.folder)


def test_code_that_a_recipe_does_not_name_is_not_run_and_code_that_fails_ends_the_run_at_its_start(mine, tmp_path):
    (tmp_path / "other.py").write_text("raise SystemExit")
    mine.write_text(FILE.replace("def first_branch(", "def second_branch("))
    with pytest.raises(RecipeError, match=r"^merge.method: .*mine.py:first_branch cannot be used"):
        copd.train(recipe_of(mine), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "branches").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return branches[5]", "cannot be merged by a method of yours: IndexError"),
        (
            "return branches[0].flatten()[:1]",
            "the merge by a method of yours returned a tensor of [1]; accepted: a tensor",
        ),
        ("return branches[0] / 0", "has a value that is not finite in the merge by a method of yours"),
    ],
    ids=["fails", "shape", "infinite"],
)
def test_a_merge_that_would_fail_after_training_ends_the_run_at_its_start(mine, tmp_path, body, said):
    head = FILE[FILE.index("def first_branch(") :].partition("\n")[0]
    mine.write_text(FILE.replace(head, f"{head}\n    {body}"))
    with pytest.raises(RecipeError, match=rf"^merge\.method: tried on the base before training: .*{re.escape(said)}"):
        copd.train(recipe_of(mine), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "branches").exists()


def test_a_family_that_is_none_is_refused(mine, tmp_path):
    recipe = recipe_of(mine, model={"family": f"{mine}:brevity", "device": "cpu"})
    with pytest.raises(ModelFolderError, match=r"model.family: brevity is no subclass of copd.compute.family.Family"):
        copd.train(recipe, tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_where_the_call_belongs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import copd\n"
        "def short(response, answer):\n    return 1.0\n"
        "copd.train('demo', 'run', rewards={'short': short}, quiet=True)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "calls copd.train while copd reads it" in done.stderr
    assert "put the call of copd.train under if __name__ == '__main__'" in done.stderr
