"""From files of rows to a user's reward function in the signature of TRL, verl or EasyR1: it sees the row's columns."""

import json

import pytest
import torch

from copd.rewards.grading import Grader, Response
from copd.rows.formats import RowRules
from copd.rows.opening import Settings
from copd.rows.rows import Rows
from copd.types import Split

FUNCTIONS = """
import re

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    if data_source == "openai/gsm8k":
        found = re.findall(r"#### (-?[0-9]+)", solution_str)
        return 1.0 if found and found[-1] == ground_truth else 0.0
    if data_source == "lighteval/MATH":
        right = "boxed{" + ground_truth + "}" in solution_str
        return {"score": 1.0 if right else -0.1 * extra_info["level"], "acc": right}
    raise NotImplementedError(f"Reward function is not implemented for {data_source=}")

def brevity(prompts, completions, budget, **kwargs):
    scores = []
    for prompt, completion, words in zip(prompts, completions, budget):
        system, *turns = prompt
        asked = system["role"] == "system" and [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        spoken = completion[0]["content"].split("</think>")[-1].split()
        scores.append(1.0 if asked and "brief" in system["content"] and len(spoken) <= words else 0.0)
    return scores

def accuracy_reward(completions, solution, **kwargs):
    return [float(text.split()[-1] in worked) / len(worked) for text, worked in zip(completions, solution)]

def easyr1(reward_input):
    return {"overall": float(reward_input["ground_truth"] == "<answer>B</answer>"), "accuracy": 1.0}
"""


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "rewards.py"
    path.write_text(FUNCTIONS)
    names = ("compute_score", "brevity", "accuracy_reward", "easyr1")
    said = []
    with Grader({name: f"{path}:{name}" for name in names}, workers=1, warn=said.append) as grader:
        grader.said = said
        yield grader


def problems(path, verifier, boxed=None):
    rules = RowRules(frozenset({verifier}), lambda text: boxed, verifier=verifier)
    rows = Rows("branch", {split: [str(path)] for split in Split}, Settings(rules))
    return [rows.problem(Split.TEST, index) for index in range(rows.size(Split.TEST))]


def lines(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def grade(grader, problems, *texts):
    return grader.grade(problems, [Response(text, torch.tensor([1, 2]), finished=True) for text in texts])


def test_a_verl_function_that_dispatches_on_data_source_runs_unchanged_on_verl_s_parquet(tmp_path, grader):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": "How many?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"split": "train", "index": index, "level": 2 + index},
        }
        for index, source in enumerate(["openai/gsm8k", "lighteval/MATH", "lighteval/MATH", "elsewhere"])
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = problems(tmp_path / "train.parquet", "compute_score")
    assert [json.loads(problem.columns) for problem in found] == rows
    grades = grade(grader, found, "6 * 12 = 72\n#### 72", r"\boxed{72}", r"\boxed{7}", "#### 72")
    assert (grades.rewards, grades.correct) == ([1.0, 1.0, -0.4, 0.0], [True, True, False, False])
    assert grades.failures == 1
    assert "not implemented for data_source='elsewhere'" in grader.said[-1]


def test_a_trl_function_sees_a_column_of_the_user_s_own_and_every_turn_of_the_prompt(tmp_path, grader):
    turns = [("system", "Be brief."), ("user", "2 + 3?"), ("assistant", "5."), ("user", "And 3 + 4?")]
    row = {"prompt": [{"role": role, "content": text} for role, text in turns], "solution": "7"}
    path = lines(tmp_path / "rows.jsonl", {**row, "budget": 1}, {**row, "budget": 2}, {**row, "limit": 2})
    grades = grade(grader, problems(path, "brevity"), *["<think>3 + 4</think> It is"] * 3)
    assert (grades.rewards, grades.failures) == ([0.0, 1.0, 0.0], 1)
    assert "LookupError: wants the column 'budget', but there is only" in grader.said[-1]


def test_equal_responses_to_rows_that_differ_in_a_column_are_graded_apart(tmp_path, grader):
    rows = [{"prompt": "?", "solution": f"{text}so\n\\boxed{{7}}"} for text in ("", "abc")]
    found = problems(lines(tmp_path / "rows.jsonl", *rows), "accuracy_reward", boxed="7")
    assert [problem.answer for problem in found] == ["7", "7"]
    assert grade(grader, found, "7", "7").rewards == [1 / 12, 1 / 15]


def test_an_easyr1_function_is_given_the_answer_as_the_row_writes_it(tmp_path, grader):
    path = lines(tmp_path / "rows.jsonl", {"problem": "A or B?", "answer": "<answer>B</answer>"})
    (problem,) = problems(path, "easyr1")
    assert problem.answer == "B"
    assert grade(grader, [problem], "B").rewards == [1.0]
