"""Harnesses before and after they run: environments, command lines, and failures that their exit status hides."""

import sys
from pathlib import Path

import pytest

from copd.errors import ModelFolderError, RecipeError
from copd.suites.harness import (
    HarnessError,
    Run,
    check_model,
    check_versions,
    generation,
    pins,
    python_of,
    requirements,
)
from copd.suites.suite import Harness, Sampling

DRAWN = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_new_tokens=9)
GREEDY = Sampling(temperature=0, max_new_tokens=9)


def run(tmp_path, python=sys.executable, **fields):
    harness = Harness(model="qwen3_vl", model_args={"max_pixels": 100})
    given = {"engine": "lmms-eval", "sampling": DRAWN, "device": "cuda", **fields}
    places = {"model": Path("/models/m"), "out": tmp_path / "out", "log": tmp_path / "log.txt"}
    return Run(python=Path(python), harness=harness, task="some_task", seed=3, **places, **given)


def test_a_task_of_lmms_eval_gets_the_suites_sampling_and_no_default_length(tmp_path):
    words = run(tmp_path, limit=4).command
    assert words[1:3] == ["-m", "lmms_eval"]
    assert words[words.index("--model_args") + 1] == "pretrained=/models/m,max_pixels=100"
    assert (
        words[words.index("--gen_kwargs") + 1] == "max_new_tokens=9,do_sample=True,temperature=0.7,top_p=0.8,top_k=20"
    )
    assert words[-2:] == ["--limit", "4"]


def test_without_a_card_lmms_eval_is_told_so_and_lm_eval_by_its_own_option(tmp_path):
    assert "device_map=cpu,device=cpu" in " ".join(run(tmp_path, device="cpu").command)
    words = run(tmp_path, engine="lm-eval", device="cpu").command
    assert words[1:4] == ["-m", "lm_eval", "run"]
    assert words[words.index("--device") + 1] == "cpu"
    assert "--apply_chat_template" in words


def test_greedy_is_said_in_each_harness_words():
    assert generation("lm-eval", GREEDY) == {"max_gen_toks": 9, "do_sample": False, "temperature": 0}
    assert generation("lmms-eval", GREEDY)["max_new_tokens"] == 9


def test_a_harness_that_is_not_there_is_told_with_the_line_that_installs_it():
    with pytest.raises(RecipeError) as error:
        check_versions(Path(sys.executable), "lmms-eval")
    assert "lmms-eval is missing, accepted 0.7.3" in str(error.value)
    assert str(error.value).endswith(f"{sys.executable} -m pip install -r {requirements('lmms-eval')}")


@pytest.mark.parametrize("engine", ["lmms-eval", "lm-eval"])
def test_the_harness_itself_is_pinned(engine):
    assert engine in pins(engine)
    assert all(number for number in pins(engine).values())


def test_no_python_of_harnesses_or_a_wrong_one_is_told_before_anything_runs(tmp_path):
    with pytest.raises(RecipeError, match=r"--harness-python: missing; lmms-eval runs in an environment of its own"):
        python_of(None, ["lmms-eval"])
    with pytest.raises(RecipeError, match="--harness-python nowhere: no such file"):
        python_of("nowhere", ["lmms-eval"])
    text = tmp_path / "python"
    text.write_text("no program")
    with pytest.raises(RecipeError, match="is not a Python that runs"):
        check_versions(text, "lmms-eval")
    with pytest.raises(
        RecipeError, match=r"--harness-python /bin/false: is not a Python that runs: ended with status 1$"
    ):
        check_versions(Path("/bin/false"), "lmms-eval")


def test_a_harness_that_fails_is_told_with_its_last_lines(tmp_path):
    with pytest.raises(HarnessError, match=r"task some_task ended with status 1; .*log\.txt:\n.*No module named"):
        run(tmp_path).finish()


def test_a_harness_that_ends_well_and_wrote_nothing_has_failed(tmp_path):
    with pytest.raises(HarnessError, match="lmms-eval: task some_task wrote no samples"):
        run(tmp_path, python="/bin/true").finish()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("runA3B", "qwen3_vl", "holds 'A3B', by which lmms-eval loads a mixture of experts"),
        ("moe", "qwen3_vl_moe", "holds nothing like 'A3B', without which lmms-eval loads a dense model"),
        ("a,b", "qwen3_vl", "no path with a comma"),
    ],
)
def test_a_path_that_lmms_eval_would_misread_is_refused(tmp_path, name, kind, told):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(ModelFolderError, match=told):
        check_model("lmms-eval", tmp_path / name)


def test_an_ordinary_path_is_taken(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    check_model("lmms-eval", tmp_path)
