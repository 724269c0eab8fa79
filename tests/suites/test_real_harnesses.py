"""Rows of the examples asked by lm-eval and lmms-eval themselves. `make test-harness` makes their environments."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from copd.commands.benchmark import benchmark_models
from copd.commands.benchmark_call import Call
from copd.suites.samples import read_samples
from copd.suites.suite import load_suite, make_suite

ROOT = Path(__file__).parents[2]
OWN_DATA = ROOT / "examples" / "own_data"
HARNESSES = {"lm-eval": ROOT / ".venv-lm-eval", "lmms-eval": ROOT / ".venv-lmms-eval"}
MODEL = "builtin:digits"
ARGUMENTS = {
    "lm-eval": {"model": "hf-multimodal", "model_args": {"dtype": "float32"}},
    "lmms-eval": {"model": "qwen3_vl"},
}
TASKS = """
import json, sys
from lmms_eval.tasks import TaskManager
manager = TaskManager()
print(json.dumps({name: str(manager.task_index[name]["yaml_path"]) for name in sys.argv[1:]}))
"""


def python_of(engine):
    python = HARNESSES[engine] / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{HARNESSES[engine].name} is not there; run: make test-harness")
    return str(python)


def asked_by(engine, tmp_path, count=8):
    data = tmp_path / "data"
    if not data.exists():
        data.mkdir()
        for name, file in (("sums", "text.jsonl"), ("digits", "image_test.jsonl")):
            lines = (OWN_DATA / file).read_text().splitlines(keepends=True)[:count]
            (data / f"{name}.jsonl").write_text("".join(lines))
        shutil.copytree(OWN_DATA / "pictures", data / "pictures")
    shared = {"engine": engine, "problems": count}
    suite = make_suite(
        {
            "title": "Two of the examples",
            "sampling": {"temperature": 0, "max_new_tokens": 24},
            "harnesses": {name: each for name, each in ARGUMENTS.items() if name == engine},
            "benchmarks": {
                "sums": {"group": "text", "prompt_template": "usual value: {{ prompt }}", **shared},
                "digits": {"group": "image", **shared},
            },
        },
        "two",
    )
    python = None if engine == "rows" else python_of(engine)
    changes = ("model.device=cpu", "model.dtype=float32")
    only = ["sums"] if engine == "lmms-eval" else []
    out = tmp_path / engine
    found = benchmark_models([MODEL], Call(suite, data, out, only, changes=changes, harness_python=python))[MODEL]
    return found, out / "builtin_digits"


def responses_of(folder, name):
    path = folder / f"{name}.responses.jsonl"
    if path.is_file():
        return [json.loads(line)["response"] for line in path.read_text().splitlines()]
    return [text for sample in read_samples(folder / f"{name}.harness" / "out") for text in sample.responses]


@pytest.mark.slow
def test_lm_eval_in_float32_gives_the_responses_and_the_scores_of_copd(tmp_path):
    theirs, folder = asked_by("lm-eval", tmp_path)
    ours, own = asked_by("rows", tmp_path)
    for name in ("sums", "digits"):
        assert responses_of(folder, name) == responses_of(own, name)
        assert theirs[name].scores == ours[name].scores
        assert theirs[name].tokens == ours[name].tokens
    assert 0 < sum(ours["sums"].means) < 8


@pytest.mark.slow
def test_lmms_eval_in_bfloat16_gives_nearly_all_responses_of_copd_to_texts(tmp_path):
    """Not to pictures as small as these: it enlarges them to 64 x 64 pixels."""
    _, folder = asked_by("lmms-eval", tmp_path)
    _, own = asked_by("rows", tmp_path)
    same = [a == b for a, b in zip(responses_of(folder, "sums"), responses_of(own, "sums"), strict=True)]
    assert sum(same) >= 6


@pytest.mark.slow
def test_lmms_eval_has_every_task_of_the_paper_and_grades_mmmu_by_rules():
    tasks = [each.task for each in load_suite("paper").benchmarks.values() if each.engine == "lmms-eval"]
    told = subprocess.run([python_of("lmms-eval"), "-c", TASKS, *tasks], capture_output=True, text=True, check=True)
    found = json.loads(told.stdout.splitlines()[-1])
    assert found.keys() == set(tasks)
    assert Path(found["mmmu_val_reasoning"]).parent.name == "reasoning"
